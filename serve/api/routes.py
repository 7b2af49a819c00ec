"""The routes: OpenAI's endpoints, health, metrics, and the playground."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from serve.api.body_reading import BodyReader
from serve.api.completions import Completions, PreparedRequest
from serve.api.middleware import CLIENT_CLOSED_REQUEST, RequestMiddleware
from serve.api.openapi import ERRORS, body_of, document
from serve.api.schemas import ChatRequest, CompletionRequest, DecodingBody
from serve.auth.keys import Gate
from serve.concurrency import SingleFlight
from serve.errors import ApiError
from serve.ops.metrics import IngressMetrics, exposition
from serve.playground import CONTENT_SECURITY_POLICY, FOLDER
from serve.settings import ServeSettings

T = TypeVar("T")
LOG = logging.getLogger("ray.serve.requests")
STREAM_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
"""Proxies are not to hold events back."""
METRICS_SECONDS = 5.0
"""Within which nodes answer."""
READY_SECONDS = 5.0
"""Within which Ray Serve's controller answers."""
SHARED_SECONDS = 2.0
"""How long a result of ``/ready`` or ``/metrics`` is shared: each one costs calls to other processes."""


@dataclass(frozen=True)
class Service:
    """What the routes need."""

    settings: ServeSettings
    completions: Completions
    gate: Gate
    metrics: IngressMetrics
    ready: Callable[[], Awaitable[bool]]
    """Whether a request would be answered; asks other processes."""


def web_app(service: Service) -> FastAPI:
    """The ASGI application.

    FastAPI's own spans would begin a trace of their own, between those of Ray Serve around it and below it.
    """
    app = FastAPI(title="LLaDA-V", docs_url=None, redoc_url=None, telemetry={"tracing": False})
    _add_completions(app, service)
    _add_models(app, service.settings)
    _add_operations(app, service)
    if service.settings.ingress.playground:
        _add_playground(app)
    _add_errors(app, service.metrics)
    app.openapi = lambda: document(app, service.settings.name)  # type: ignore[method-assign]
    routes = {getattr(route, "path", "") for route in app.routes}
    app.add_middleware(
        RequestMiddleware,
        settings=service.settings,
        gate=service.gate,
        metrics=service.metrics,
        routes=routes,
    )
    return app


def _add_completions(app: FastAPI, service: Service) -> None:
    reader = BodyReader(service.settings.limits.text_bytes, service.settings.media.images)
    shared: dict[str, Any] = {"responses": ERRORS, "response_model": None, "tags": ["completions"]}

    @app.post("/v1/chat/completions", **shared, openapi_extra=body_of(ChatRequest))
    async def chat(request: Request) -> Response:
        """The next message of a conversation about text and images."""
        return await _unless_gone(request, _answered(service, request, reader, ChatRequest))

    @app.post("/v1/completions", **shared, openapi_extra=body_of(CompletionRequest))
    async def complete(request: Request) -> Response:
        """Text that goes on, or that fills the gap before a suffix."""
        return await _unless_gone(request, _answered(service, request, reader, CompletionRequest))


async def _prepared(
    service: Service, request: Request, reader: BodyReader, kind: type[DecodingBody]
) -> PreparedRequest:
    """The task of a request; the body and its images are not kept while it is answered."""
    exchange, content_type = request.state.exchange, request.headers.get("content-type", "")
    asked = await reader.read(exchange.body, content_type, kind)
    task = await service.completions.prepare(asked)
    exchange.release()
    exchange.notes["answer"] = task.plan.job.id
    task.first_token = lambda: service.metrics.first_token(time.monotonic() - exchange.since)
    return task


async def _answered(
    service: Service, request: Request, reader: BodyReader, kind: type[DecodingBody]
) -> Response:
    """The whole answer, or a stream that has its first event."""
    task = await _prepared(service, request, reader, kind)
    if task.stream:
        events = _noted(await service.completions.stream(task), service, task, request)
        return StreamingResponse(events, media_type="text/event-stream", headers=STREAM_HEADERS)
    answer = await service.completions.answer(task)
    _note(service, task, request)
    return Response(answer, media_type="application/json")


async def _unless_gone(request: Request, awaited: Coroutine[Any, Any, T]) -> T:
    """What is awaited; it is cancelled when the client goes away, which not every server does by itself."""
    task, gone = asyncio.create_task(awaited), asyncio.create_task(_gone(request))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ApiError(CLIENT_CLOSED_REQUEST, "the client went away", code="disconnected")
        return task.result()
    finally:
        task.cancel()
        gone.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _noted(
    events: AsyncIterator[str], service: Service, task: PreparedRequest, request: Request
) -> AsyncIterator[str]:
    try:
        async for event in events:
            yield event
    finally:
        await events.aclose()  # type: ignore[attr-defined] - a generator of ours
        _note(service, task, request)


def _note(service: Service, task: PreparedRequest, request: Request) -> None:
    """What is logged of an answer, and counted."""
    if task.error is not None:
        code = task.error.code or str(task.error.status)
        service.metrics.rejected(code)
        request.state.exchange.notes["error"] = code
    if task.used is not None:
        service.metrics.tokens(task.used["completion_tokens"])
        request.state.exchange.notes.update(task.used)


def _add_models(app: FastAPI, settings: ServeSettings) -> None:
    started = int(time.time())

    def described() -> dict[str, Any]:
        dial, limits = settings.dial, settings.limits
        return {
            "id": settings.name,
            "object": "model",
            "created": started,
            "owned_by": "lladav",
            "max_tokens": limits.max_tokens,
            "default_max_tokens": limits.default_max_tokens,
            "max_images": settings.media.images,
            "block_length": settings.decoding.block_length,
            "refresh_interval": {"min": dial.min, "max": dial.max, "default": dial.default},
            "efforts": sorted(dial.presets),
        }

    @app.get("/v1/models", responses=ERRORS, tags=["models"])
    async def list_models() -> dict[str, Any]:
        """The one model, and the bounds of what a request may ask of it."""
        return {"object": "list", "data": [described()]}

    @app.get("/v1/models/{model}", responses=ERRORS, tags=["models"])
    async def get_model(model: str) -> dict[str, Any]:
        """The model by its name."""
        if model != settings.name:
            message = f"model: there is no {model!r} here; use {settings.name!r}"
            raise ApiError(404, message, code="model_not_found", param="model")
        return described()


async def _is_ready(service: Service) -> bool:
    try:
        async with asyncio.timeout(READY_SECONDS):
            return await service.ready()
    except ApiError:  # it says itself why the server is not ready
        raise
    except Exception:
        LOG.exception("cannot find out whether the server is ready")
        return False


def _add_operations(app: FastAPI, service: Service) -> None:
    readiness = SingleFlight(partial(_is_ready, service), SHARED_SECONDS)
    gathered = SingleFlight(partial(exposition, METRICS_SECONDS), SHARED_SECONDS)

    @app.get("/health", tags=["operations"])
    async def health() -> dict[str, str]:
        """Whether this process lives."""
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
        return PlainTextResponse(await gathered.get(), media_type="text/plain; version=0.0.4")


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
    async def of_http(request: Request, error: HTTPException) -> JSONResponse:
        reason = HTTPStatus(error.status_code).phrase.lower()
        message = f"{request.method} {request.url.path}: {reason}; /openapi.json lists what there is"
        return answer(ApiError(error.status_code, message, code=reason.replace(" ", "_")), error.headers)
