"""The ingress deployment: checks requests, reads images, calls the engines, writes answers."""

from __future__ import annotations

import gc
from collections.abc import Awaitable, Callable

from fastapi import FastAPI
from ray import serve
from ray.serve.handle import DeploymentHandle

from lladav import __version__
from lladav.checkpoint import model_config_of, weights_digest
from lladav.config.schema import ModelConfig
from lladav.inputs.chat import ChatTokenizer
from lladav.inputs.images import ViewGeometry
from serve.api.answers.completions import Completions
from serve.api.planning.planner import RequestPlanner
from serve.api.routing.routes import web_app
from serve.api.routing.service import Service
from serve.auth.keys import Authenticator, keys_of
from serve.auth.rate_limits import RateLimiter
from serve.concurrency import ThreadOffloader
from serve.engine.client import FAULT_SECONDS, EngineReplicas, Engines
from serve.errors import NOT_FINITE, ApiError
from serve.media.loader import MediaLoader
from serve.ops.metrics import IngressMetrics
from serve.settings import ServeSettings

RUNNING = "RUNNING"
"""Ray Serve's state of a replica that accepts requests."""


@serve.ingress()
class Ingress:
    """Holds the tokenizer and the configuration of the model, not its weights."""

    def __init__(self, settings: ServeSettings, engines: DeploymentHandle) -> None:
        self._settings, self._engines = settings, engines
        self._offload = ThreadOffloader("status")
        self._replicas = EngineReplicas(engines)

    async def __serve_build_asgi_app__(self) -> FastAPI:
        """Called by Ray Serve, in the event loop that the application will run in."""
        app = web_app(service_of(self._settings, self._replicas, self._ready))
        freeze_heap()
        return app

    async def _ready(self) -> bool:
        """Whether an engine replica runs, or would start for a request.

        Raises ``ApiError`` if every recent request failed with numbers that are not finite.
        """
        if self._replicas.faults.persist:
            message = "no recent request got finite numbers from the model; check weights and engine.dtype"
            raise ApiError(503, message, code=NOT_FINITE, retry_after=FAULT_SECONDS)
        if self._settings.engine.min_replicas == 0:
            return True
        status = await self._offload(serve.status)
        application = status.applications[serve.get_replica_context().app_name]
        states = application.deployments[self._engines.deployment_name].replica_states
        return any(state == RUNNING and count > 0 for state, count in states.items())


def freeze_heap() -> None:
    """Exclude the objects that exist now from garbage collection.

    Imports leave half a million objects, and a collection that visits them stops the process for hundreds of
    milliseconds.
    """
    gc.collect()
    gc.freeze()


def service_of(settings: ServeSettings, engines: Engines, ready: Callable[[], Awaitable[bool]]) -> Service:
    """The service of a model in front of its engines; raises ``UserError`` for unusable settings."""
    tokenizer, model = ChatTokenizer.load(settings.model), model_config_of(settings.model)
    planner = planner_of(settings, tokenizer, model)
    media = MediaLoader(settings.media, settings.fetch, ViewGeometry.of(model))
    return Service(
        settings,
        model,
        tokenizer,
        Completions(engines, planner, media, tokenizer),
        Authenticator(keys_of(settings)),
        RateLimiter(settings.name, settings.limits_storage),
        IngressMetrics(settings.name),
        ready,
    )


def check_ingress(settings: ServeSettings) -> None:
    """Raise ``UserError`` for settings with which an ingress replica on this machine would not start."""
    planner_of(settings, ChatTokenizer.load(settings.model), model_config_of(settings.model))
    keys_of(settings)
    RateLimiter(settings.name, settings.limits_storage)


def planner_of(settings: ServeSettings, tokenizer: ChatTokenizer, model: ModelConfig) -> RequestPlanner:
    """The planner of a model's requests; raises ``UserError`` for aliases that cannot be used."""
    planner = RequestPlanner(settings, tokenizer, model, ViewGeometry.of(model), fingerprints_of(settings))
    planner.check_aliases()
    return planner


def fingerprints_of(settings: ServeSettings) -> dict[str, str]:
    """OpenAI's ``system_fingerprint`` of each model.

    It changes with the version of the server and with the weights, also those of an adapter.
    """
    base = f"fp_{__version__}_{weights_digest(settings.model)}"
    adapters = {name: f"{base}_{weights_digest(folder)}" for name, folder in settings.adapters.items()}
    return {**dict.fromkeys(settings.models, base), **adapters}
