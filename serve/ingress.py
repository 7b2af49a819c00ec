"""The deployment that clients talk to: it checks requests, reads images, asks the engines, writes answers."""

from __future__ import annotations

import gc

from fastapi import FastAPI
from ray import serve
from ray.serve.handle import DeploymentHandle

from lladav.checkpoint import model_config_of
from lladav.inputs.chat import ChatTokenizer
from lladav.inputs.images import ViewGeometry
from serve.api.completions import Completions
from serve.api.requests import RequestPlanner
from serve.api.routes import Service, web_app
from serve.auth.keys import Gate
from serve.concurrency import ThreadOffloader
from serve.engine.client import FAULT_SECONDS, EngineReplicas, Engines
from serve.errors import NOT_FINITE, ApiError
from serve.media.loader import MediaLoader
from serve.ops.metrics import IngressMetrics
from serve.settings import ServeSettings

RUNNING = "RUNNING"
"""Ray Serve's name of a replica that takes requests."""


@serve.ingress()
class Ingress:
    """Holds no model: a tokenizer and the model's configuration are enough."""

    def __init__(self, settings: ServeSettings, engines: DeploymentHandle) -> None:
        self._settings, self._engines = settings, engines
        self._status = ThreadOffloader("status")
        self._replicas = EngineReplicas(engines)

    async def __serve_build_asgi_app__(self) -> FastAPI:
        """Called by Ray Serve, in the event loop that the application will run in."""
        settings = self._settings
        completions = completions_of(settings, self._replicas)
        metrics = IngressMetrics(settings.name)
        app = web_app(Service(settings, completions, Gate(settings), metrics, self._ready))
        freeze_heap()
        return app

    async def _ready(self) -> bool:
        """Whether an engine replica is up, or would come up when asked.

        Raises ``ApiError`` where no forward of late gave finite numbers.
        """
        if self._replicas.faults.persist:
            message = "no request of late got finite numbers from the model; check weights and engine.dtype"
            raise ApiError(503, message, code=NOT_FINITE, retry_after=FAULT_SECONDS)
        if self._settings.engine.min_replicas == 0:
            return True
        status = await self._status(serve.status)
        application = status.applications[serve.get_replica_context().app_name]
        states = application.deployments[self._engines.deployment_name].replica_states
        return any(state == RUNNING and count > 0 for state, count in states.items())


def freeze_heap() -> None:
    """Keep what is loaded now out of later garbage collections.

    Imports leave half a million objects; a collection that looks through them stops the process for hundreds
    of milliseconds.
    """
    gc.collect()
    gc.freeze()


def completions_of(settings: ServeSettings, engines: Engines) -> Completions:
    """What answers requests about the settings' model."""
    tokenizer, model = ChatTokenizer.load(settings.model), model_config_of(settings.model)
    geometry = ViewGeometry.of(model)
    planner = RequestPlanner(settings, tokenizer, model, geometry)
    media = MediaLoader(settings.media, settings.fetch, geometry)
    return Completions(settings.name, engines, planner, media, tokenizer)
