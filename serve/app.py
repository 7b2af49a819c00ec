"""The Serve application: ``serve run serve.app:build config=local model=FOLDER``.

Arguments are dotted keys of ``serve/settings.py``; they override a file of ``conf/serve``.
"""

# Without "from __future__ import annotations": Ray Serve reads the type of the parameter of ``build``.

from pathlib import Path
from typing import Any

from ray import serve
from ray.serve import Application

from serve.engine.replica import EngineReplica
from serve.ingress import Ingress
from serve.ops.autoscaling import autoscaling_config
from serve.settings import ReplicaSettings, ServeSettings
from serve.starting import check_checkpoint

EXTRA_REQUESTS = 64
"""Requests that an ingress replica accepts beyond those that engines can hold, in order to refuse them."""
LOGGING = {"encoding": "JSON", "enable_access_log": False}
"""Without Ray Serve's log line for each request, because the middleware writes one."""


def build(args: ServeSettings) -> Application:
    """The application; called by Ray Serve. Raises ``UserError`` for a damaged checkpoint."""
    # Only if the checkpoint is here: on a cluster, perhaps only the replicas can read it.
    if Path(args.model).is_dir():
        check_checkpoint(args)
    engine, ingress = args.engine, args.ingress
    engines = serve.deployment(EngineReplica).options(
        name="engine",
        ray_actor_options={"num_cpus": engine.cpus, "num_gpus": engine.gpus},
        max_ongoing_requests=_max_ongoing(engine),
        max_queued_requests=engine.max_queued,
        graceful_shutdown_timeout_s=engine.drain_seconds,
        graceful_shutdown_wait_loop_s=0.5,
        health_check_period_s=min(10.0, engine.step_seconds),
        health_check_timeout_s=max(10.0, engine.step_seconds),
        logging_config=LOGGING,
        **_scaling(args),
    )
    front = serve.deployment(Ingress).options(
        name="ingress",
        num_replicas=ingress.replicas,
        ray_actor_options={"num_cpus": ingress.cpus},
        max_ongoing_requests=engine.max_replicas * _max_ongoing(engine) + engine.max_queued + EXTRA_REQUESTS,
        graceful_shutdown_timeout_s=engine.drain_seconds,
        logging_config=LOGGING,
    )
    return front.bind(args, engines.bind(args))


def _max_ongoing(engine: ReplicaSettings) -> int:
    """Requests that an engine replica decodes or lets wait for a row."""
    return engine.max_rows + engine.max_waiting


def _scaling(args: ServeSettings) -> dict[str, Any]:
    low, high = args.engine.min_replicas, args.engine.max_replicas
    if low == high or args.scaling.external:
        return {"num_replicas": low}
    rules = args.scaling.model_dump(exclude={"external"})
    return {"autoscaling_config": autoscaling_config(low, high, rules)}
