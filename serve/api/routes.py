"""The routes: OpenAI's endpoints, health, metrics, and the playground."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from lladav.config.schema import Prediction
from serve.api.body_reading import BodyReader
from serve.api.completions import Completions
from serve.api.context import RequestContext
from serve.api.middleware import CLIENT_CLOSED_REQUEST, RequestMiddleware
from serve.api.openapi import ERRORS, body_of, document
from serve.api.planner import unknown_model
from serve.api.schemas import ChatRequest, CompletionRequest, DecodingBody
from serve.auth.keys import Authenticator
from serve.auth.rate_limits import RateLimiter
from serve.concurrency import SingleFlight
from serve.errors import ApiError
from serve.ops.metrics import IngressMetrics, exposition
from serve.playground import CONTENT_SECURITY_POLICY, FOLDER
from serve.settings import ServeSettings

T = TypeVar("T")
LOG = logging.getLogger("ray.serve.requests")
STREAM_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
"""Ask proxies not to buffer events."""
METRICS_SECONDS = 5.0
"""Time limit for nodes to report their metrics."""
READY_SECONDS = 5.0
"""Time limit for Ray Serve's controller to answer."""
SHARED_SECONDS = 2.0
"""How long a result of ``/ready`` or ``/metrics`` is shared: each costs calls to other processes."""


@dataclass(frozen=True)
class Service:
    """What the routes and the middleware use."""

    settings: ServeSettings
    prediction: Prediction
    """What the model predicts; it decides which decoding params there are."""
    completions: Completions
    authenticator: Authenticator
    limiter: RateLimiter
    metrics: IngressMetrics
    ready: Callable[[], Awaitable[bool]]
    """Whether a request would be answered; asks other processes."""


def web_app(service: Service) -> FastAPI:
    """The ASGI application."""
    # FastAPI's own spans would start a separate trace, between those of Ray Serve around it and below it.
    app = FastAPI(title="LLaDA-V", docs_url=None, redoc_url=None, telemetry={"tracing": False})
    _add_completions(app, service)
    _add_models(app, service.settings, service.prediction)
    _add_operations(app, service)
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
    return app


def _add_completions(app: FastAPI, service: Service) -> None:
    media = service.settings.media
    reader = BodyReader(service.settings.limits.text_bytes, media.images + media.videos)
    shared: dict[str, Any] = {"responses": ERRORS, "response_model": None, "tags": ["completions"]}

    async def answer(request: Request, kind: type[DecodingBody]) -> Response:
        """The whole answer, or a stream that has its first event."""
        context = RequestContext.of(request)
        content_type = request.headers.get("content-type", "")
        # The parsed body has no name here, so that its images are freed before the answer is computed.
        prepared = await service.completions.prepare(
            await reader.read(context.body, content_type, kind), context.key
        )
        context.release_body()
        context.notes["answer"] = prepared.engine_request.id
        if prepared.stream:
            events = await service.completions.stream(prepared, context)
            return StreamingResponse(events, media_type="text/event-stream", headers=STREAM_HEADERS)
        return Response(await service.completions.answer(prepared, context), media_type="application/json")

    @app.post("/v1/chat/completions", **shared, openapi_extra=body_of(ChatRequest))
    async def chat(request: Request) -> Response:
        """The next message of a conversation about text and images."""
        return await _unless_disconnected(request, answer(request, ChatRequest))

    @app.post("/v1/completions", **shared, openapi_extra=body_of(CompletionRequest))
    async def complete(request: Request) -> Response:
        """Text that continues a prompt, or that fills the gap before a suffix."""
        return await _unless_disconnected(request, answer(request, CompletionRequest))


async def _unless_disconnected(request: Request, coroutine: Coroutine[Any, Any, T]) -> T:
    """The coroutine's result. It is cancelled if the client disconnects: not every server does that."""

    async def disconnect() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    task, gone = asyncio.create_task(coroutine), asyncio.create_task(disconnect())
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ApiError(CLIENT_CLOSED_REQUEST, "the client went away", code="disconnected")
        return task.result()
    finally:
        task.cancel()
        gone.cancel()


def _add_models(app: FastAPI, settings: ServeSettings, prediction: Prediction) -> None:
    started = int(time.time())

    def description(name: str) -> dict[str, Any]:
        limits, alias = settings.limits, settings.aliases.get(name)
        params = None if alias is None else alias.model_dump(mode="json", exclude_none=True)
        return {
            "id": name,
            "object": "model",
            "created": started,
            "owned_by": "lladav",
            "prediction": prediction.value,
            "max_tokens": limits.max_tokens,
            "default_max_tokens": limits.default_max_tokens,
            "max_images": settings.media.images,
            "max_videos": settings.media.videos,
            **_denoising(settings, prediction),
            **({} if params is None else {"parent": settings.name, "params": params}),
        }

    @app.get("/v1/models", responses=ERRORS, tags=["models"])
    async def list_models() -> dict[str, Any]:
        """The model and its aliases, and the limits of requests."""
        return {"object": "list", "data": [description(name) for name in settings.models]}

    @app.get("/v1/models/{model}", responses=ERRORS, tags=["models"])
    async def get_model(model: str) -> dict[str, Any]:
        """A model by its name."""
        if model not in settings.models:
            raise unknown_model(model, settings)
        return description(model)


def _denoising(settings: ServeSettings, prediction: Prediction) -> dict[str, Any]:
    """Settings of denoising in the description of a model; empty values if it predicts the next token."""
    if prediction is Prediction.next_token:
        return {"block_length": None, "refresh_interval": None, "efforts": []}
    dial = settings.dial
    return {
        "block_length": settings.decoding.block_length,
        "refresh_interval": {"min": dial.min, "max": dial.max, "default": dial.default},
        "efforts": sorted(dial.presets),
    }


async def _is_ready(service: Service) -> bool:
    try:
        async with asyncio.timeout(READY_SECONDS):
            return await service.ready()
    except ApiError:  # its message says why the server is not ready
        raise
    except Exception:
        LOG.exception("cannot find out whether the server is ready")
        return False


def _add_operations(app: FastAPI, service: Service) -> None:
    readiness = SingleFlight(partial(_is_ready, service), SHARED_SECONDS)
    scrape = SingleFlight(partial(exposition, METRICS_SECONDS), SHARED_SECONDS)

    @app.get("/health", tags=["operations"])
    async def health() -> dict[str, str]:
        """Whether this process runs."""
        return {"status": "ok"}

    @app.get("/ready", responses={503: ERRORS[503]}, tags=["operations"])
    async def ready() -> dict[str, str]:
        """Whether a request would be answered."""
        if not await readiness.get():
            raise ApiError(503, "no engine replica is up yet; ask again", code="not_ready", retry_after=2.0)
        return {"status": "ok"}

    @app.get(
        "/metrics",
        response_class=PlainTextResponse,
        responses={status: ERRORS[status] for status in (401, 403)},
        tags=["operations"],
    )
    async def metrics() -> PlainTextResponse:
        """Metrics of all nodes, in Prometheus' text format."""
        return PlainTextResponse(await scrape.get(), media_type="text/plain; version=0.0.4")


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
    async def http_error(request: Request, error: HTTPException) -> JSONResponse:
        reason = HTTPStatus(error.status_code).phrase.lower()
        message = f"{request.method} {request.url.path}: {reason}; /openapi.json lists what there is"
        return answer(ApiError(error.status_code, message, code=reason.replace(" ", "_")), error.headers)
