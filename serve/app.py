"""The Serve application: ``serve run serve.app:build config=local model=FOLDER``.

Arguments are the keys of ``serve/settings.py``, dotted, on top of a file of ``conf/serve``. Ray reads the
type of ``build``'s parameter: no ``from __future__ import annotations`` here, which would make it text.
"""

from pathlib import Path
from typing import Any

from ray import serve
from ray.serve import Application

from serve.engine.replica import EngineReplica
from serve.ingress import Ingress
from serve.ops.autoscaling import autoscaling_config
from serve.settings import ReplicaSettings, ServeSettings
from serve.starting import check_checkpoint

SPARE = 64
"""Requests that an ingress replica takes beyond those that engines can hold, to tell them so."""
LOGGING = {"encoding": "JSON", "enable_access_log": False}
"""Serve's own line for each request is left out in favour of ours."""


def build(args: ServeSettings) -> Application:
    """The application of settings; called by Ray Serve.

    A checkpoint that is damaged is refused here where its folder is: on a cluster only replicas may have it.
    """
    if Path(args.model).is_dir():
        check_checkpoint(args.model)
    engine, ingress = args.engine, args.ingress
    engines = serve.deployment(EngineReplica).options(
        name="engine",
        ray_actor_options={"num_cpus": engine.cpus, "num_gpus": engine.gpus},
        max_ongoing_requests=_held(engine),
        max_queued_requests=engine.max_queued,
        graceful_shutdown_timeout_s=engine.drain_seconds,
        graceful_shutdown_wait_loop_s=0.5,
        health_check_period_s=min(10.0, engine.step_seconds),
        health_check_timeout_s=max(10.0, engine.step_seconds),
        logging_config=LOGGING,
        **_number_of(args),
    )
    door = serve.deployment(Ingress).options(
        name="ingress",
        num_replicas=ingress.replicas,
        ray_actor_options={"num_cpus": ingress.cpus},
        max_ongoing_requests=engine.max_replicas * _held(engine) + engine.max_queued + SPARE,
        graceful_shutdown_timeout_s=engine.drain_seconds,
        logging_config=LOGGING,
    )
    return door.bind(args, engines.bind(args))


def _held(engine: ReplicaSettings) -> int:
    """Requests that a replica runs or keeps waiting."""
    return engine.max_rows + engine.max_waiting


def _number_of(args: ServeSettings) -> dict[str, Any]:
    low, high = args.engine.min_replicas, args.engine.max_replicas
    if low == high or args.scaling.external:
        return {"num_replicas": low}
    rules = args.scaling.model_dump(exclude={"external"})
    return {"autoscaling_config": autoscaling_config(low, high, rules)}
