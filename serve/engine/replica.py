"""The engine deployment: each replica holds a model, its engine and the thread that runs it."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncGenerator
from dataclasses import asdict
from pathlib import Path

import torch

from lladav.checkpoint import open_adapters, open_model
from lladav.config.schema import Prediction
from lladav.decoding.cpu_weights import fastest_dtype
from lladav.decoding.cuda_graphs import GraphSize, capture_sizes
from lladav.decoding.engine import SMALL_BLOCK_SIZE, Engine, EngineConfig
from lladav.decoding.kv_cache import BLOCK_SIZE
from lladav.errors import UserError
from lladav.inputs.chat import ChatTokenizer
from lladav.model.llada_v import LLaDAV
from serve.engine.messages import EngineRequest, Event, Finished
from serve.engine.worker import EngineWorker
from serve.ops.autoscaling import STATS
from serve.ops.metrics import EngineMetrics
from serve.settings import ServeSettings

LOG = logging.getLogger("ray.serve.engine")
MAX_CPU_KERNELS = 64
"""Kernels that oneDNN caches, one for each step size. Its default of 1024 takes half a gigabyte."""
FAILED_STEPS_UNHEALTHY = 5
"""Consecutive failed steps after which the cause is not a request but the replica, so Ray replaces it."""


class EngineReplica:
    """Answers engine requests; its methods are called through a handle of Ray Serve."""

    def __init__(self, settings: ServeSettings) -> None:
        self._settings = settings.engine
        try:
            tokenizer = ChatTokenizer.load(settings.model)
            engine = engine_of(open_replica_model(settings), settings)
        except UserError as error:
            LOG.error("the replica cannot start: %s", error)
            raise
        self._metrics = EngineMetrics(settings.name)
        self._worker = EngineWorker(
            engine, tokenizer, settings.engine.max_rows, settings.dial.busy, self._metrics
        )

    async def answer(self, request: EngineRequest) -> list[Finished]:
        """All answers of a request, in order."""
        finished = [
            event
            async for events in self._worker.events(request)
            for event in events
            if isinstance(event, Finished)
        ]
        return sorted(finished, key=lambda each: each.choice)

    async def events(self, request: EngineRequest) -> AsyncGenerator[list[Event], None]:
        """Events of a request as they happen."""
        async for events in self._worker.events(request):
            yield events

    def check_health(self) -> None:
        """Called by Ray Serve, which replaces a replica if this raises."""
        # Ray drops gauges that are not set for some seconds, so an idle engine sets them here.
        self._metrics.gauges(**asdict(self._worker.load))
        if not self._worker.alive:
            raise RuntimeError("the engine's thread has ended")
        if (steps := self._worker.failed_steps) >= FAILED_STEPS_UNHEALTHY:
            raise RuntimeError(f"the last {steps} steps failed")
        if (seconds := self._worker.step_seconds) > self._settings.step_seconds:
            raise RuntimeError(f"a step has been running for {seconds:.0f} s")

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Called by Ray Serve; the autoscaling policy in ``serve.ops.autoscaling`` reads the result."""
        load = self._worker.load
        return {name: float(getattr(load, name)) for name in STATS}


def open_replica_model(settings: ServeSettings) -> LLaDAV:
    """The model on the replica's device."""
    replica = settings.engine
    device = "cuda" if replica.gpus else "cpu"
    if device == "cpu":
        os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(MAX_CPU_KERNELS))
        if replica.threads:
            torch.set_num_threads(replica.threads)
    dtype = fastest_dtype(device) if replica.dtype == "auto" else replica.dtype
    return open_model(Path(settings.model), getattr(torch, dtype), device)


def engine_of(model: LLaDAV, settings: ServeSettings) -> Engine:
    """The engine of a replica, with its adapters; raises ``UserError`` for adapters of another model."""
    replica = settings.engine
    config = EngineConfig(
        replica.kv_bytes,
        replica.max_rows,
        replica.refresh_positions,
        graph_sizes=graph_sizes(settings, model.config.prediction),
        graph_bytes=min(replica.graph_bytes, replica.kv_bytes // 4),
        block_size=BLOCK_SIZE if replica.gpus else SMALL_BLOCK_SIZE,
    )
    return Engine(model, config, open_adapters(model, settings.adapters))


def graph_sizes(settings: ServeSettings, prediction: Prediction = Prediction.masked) -> list[GraphSize]:
    """Sizes of cached steps to capture as CUDA graphs; empty if graphs are off."""
    replica, canvas = settings.engine, settings.limits.max_tokens
    enabled = replica.gpus > 0 if replica.cuda_graphs is None else replica.cuda_graphs
    block = settings.decoding.block_length or settings.limits.default_max_tokens
    if prediction is Prediction.next_token:
        canvas = block = 1  # each cached step forwards one token
    return capture_sizes(replica.max_rows, canvas, block) if enabled else []
