"""The routes: OpenAI's endpoints, health, metrics, and the playground."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from lladav import __version__
from serve.api.routing.completion_routes import add_completions
from serve.api.routing.model_routes import add_models
from serve.api.routing.openapi import document
from serve.api.routing.operations import add_operations
from serve.api.routing.service import Service
from serve.api.routing.tokenization import add_tokenization
from serve.api.transport.body_reading import BodyReader
from serve.api.transport.middleware import RequestMiddleware
from serve.errors import ApiError
from serve.ops.metrics import IngressMetrics
from serve.playground import CONTENT_SECURITY_POLICY, FOLDER


def web_app(service: Service) -> FastAPI:
    """The ASGI application."""
    # FastAPI's own spans would start a separate trace, between those of Ray Serve around it and below it.
    app = FastAPI(
        title="LLaDA-V", version=__version__, docs_url=None, redoc_url=None, telemetry={"tracing": False}
    )
    limits, media = service.settings.limits, service.settings.media
    reader = BodyReader(limits.text_bytes, media.images + media.videos)
    add_completions(app, service, reader)
    add_models(app, service)
    add_tokenization(app, service, reader)
    add_operations(app, service)
    if service.settings.ingress.playground:
        _add_playground(app)
    _add_errors(app, service.metrics)
    app.openapi = lambda: document(app, service.settings.name)  # type: ignore[method-assign]
    app.add_middleware(
        RequestMiddleware,
        settings=service.settings,
        authenticator=service.authenticator,
        limiter=service.limiter,
        metrics=service.metrics,
        routes={getattr(route, "path", "") for route in app.routes},
    )
    if origins := service.settings.ingress.cors_origins:
        _allow_origins(app, origins)
    return app


def _allow_origins(app: FastAPI, origins: Sequence[str]) -> None:
    """Let pages of other origins call the API. Added last, so that errors have the headers, too."""
    app.add_middleware(
        CORSMiddleware,
        allow_origins=origins,
        allow_methods=["GET", "HEAD", "POST"],
        allow_headers=["*"],  # the openai client in a browser sends many of its own
        expose_headers=["Retry-After", "X-Request-ID"],
    )


def _add_playground(app: FastAPI) -> None:
    headers = {
        "Content-Security-Policy": CONTENT_SECURITY_POLICY,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }

    class Files(StaticFiles):
        def file_response(self, *args: Any, **kwargs: Any) -> Response:
            response = super().file_response(*args, **kwargs)
            response.headers.update(headers)
            return response

    app.mount("/playground", Files(directory=FOLDER), name="playground")

    @app.get("/", include_in_schema=False)
    async def playground() -> FileResponse:
        return FileResponse(FOLDER / "index.html", headers=headers)


def _add_errors(app: FastAPI, metrics: IngressMetrics) -> None:
    def answer(error: ApiError, headers: Mapping[str, str] | None = None) -> JSONResponse:
        metrics.rejected(error.code or str(error.status))
        return JSONResponse(error.body, error.status, {**(headers or {}), **error.headers})

    @app.exception_handler(ApiError)
    async def refused(_: Request, error: ApiError) -> JSONResponse:
        return answer(error)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        allowed = _allowed_methods(error)
        if request.method == "OPTIONS" and allowed:
            return Response(status_code=HTTPStatus.NO_CONTENT, headers=allowed)
        reason = HTTPStatus(error.status_code).phrase.lower()
        message = f"{request.method} {request.url.path}: {reason}; /openapi.json lists what there is"
        return answer(ApiError(error.status_code, message, code=reason.replace(" ", "_")), allowed)


def _allowed_methods(error: HTTPException) -> dict[str, str]:
    """The header with the methods of a path, for a request with another one; the middleware serves HEAD."""
    if error.status_code != HTTPStatus.METHOD_NOT_ALLOWED:
        return {}
    methods = (error.headers or {}).get("Allow", "GET").split(", ")
    return {"Allow": ", ".join(sorted({*methods, *["HEAD"] * ("GET" in methods), "OPTIONS"}))}
