"""The routes for operators: health, readiness and metrics."""

from __future__ import annotations

import asyncio
import logging
from functools import partial

from fastapi import FastAPI
from fastapi.responses import PlainTextResponse

from lladav import __version__
from serve.api.routing.openapi import ERRORS
from serve.api.routing.service import Service
from serve.concurrency import SingleFlight
from serve.errors import ApiError
from serve.ops.metrics import exposition

LOG = logging.getLogger("ray.serve.requests")
METRICS_SECONDS = 5.0
"""Time limit for nodes to report their metrics."""
READY_SECONDS = 5.0
"""Time limit for Ray Serve's controller to answer."""
SHARED_SECONDS = 2.0
"""How long a result of ``/ready`` or ``/metrics`` is shared: each costs calls to other processes."""


async def _is_ready(service: Service) -> bool:
    try:
        async with asyncio.timeout(READY_SECONDS):
            return await service.ready()
    except ApiError:  # its message says why the server is not ready
        raise
    except Exception:
        LOG.exception("cannot find out whether the server is ready")
        return False


def add_operations(app: FastAPI, service: Service) -> None:
    """Add ``/health``, ``/ready``, ``/version`` and ``/metrics``."""
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

    @app.get("/version", responses={status: ERRORS[status] for status in (401, 403)}, tags=["operations"])
    async def version() -> dict[str, str]:
        """Version of the server."""
        return {"version": __version__}

    @app.get(
        "/metrics",
        response_class=PlainTextResponse,
        responses={status: ERRORS[status] for status in (401, 403)},
        tags=["operations"],
    )
    async def metrics() -> PlainTextResponse:
        """Metrics of all nodes, in Prometheus' text format."""
        return PlainTextResponse(await scrape.get(), media_type="text/plain; version=0.0.4")
