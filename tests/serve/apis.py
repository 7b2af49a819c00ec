"""The API for tests: a small model, its engine in this process, and a web server, without Ray."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from ray.serve._private.http_util import RequestIdMiddleware

from lladav.checkpoint import export
from lladav.config.schema import ModelConfig, TokenIds
from lladav.inputs.chat import ChatTokenizer
from serve.api.routing.routes import web_app
from serve.engine.client import Engines
from serve.engine.messages import EngineRequest, Event, Finished
from serve.engine.replica import engine_of, open_replica_model
from serve.engine.worker import EngineWorker
from serve.ingress import service_of
from serve.ops.metrics import EngineMetrics
from serve.settings import ServeSettings, load
from tests.lladav.build import tiny_config, tiny_model

NAME = "llada-v-tiny"


def checkpoint(
    folder: Path, tokenizer_folder: Path, config_of: Callable[..., ModelConfig] = tiny_config
) -> Path:
    """An untrained model as a checkpoint with its tokenizer."""
    tokenizer = ChatTokenizer.load(tokenizer_folder)
    config = config_of(vocab_size=tokenizer.vocab_size)
    config.tokens = TokenIds(**vars(tokenizer.ids))
    model = tiny_model(config, std=0.2)
    export(model, config, folder, tokenizer=tokenizer_folder)
    return folder


def settings_of(model: Path, **given: Any) -> ServeSettings:
    """The settings of ``conf/serve/local.yaml`` with overrides, double underscores for dots."""
    dotted = {name.replace("__", "."): value for name, value in given.items()}
    return load({"config": "local", "model": str(model), **dotted})


class LocalEngines(Engines):
    """An engine in this process."""

    def __init__(self, settings: ServeSettings) -> None:
        self.engine = engine_of(open_replica_model(settings), settings)
        tokenizer = ChatTokenizer.load(settings.model)
        self.worker = EngineWorker(
            self.engine, tokenizer, settings.engine.max_rows, settings.dial.busy, EngineMetrics(settings.name)
        )

    async def answer(self, request: EngineRequest) -> list[Finished]:
        events = [event async for some in self.worker.events(request) for event in some]
        finished = [event for event in events if isinstance(event, Finished)]
        return sorted(finished, key=lambda each: each.choice)

    def events(self, request: EngineRequest) -> AsyncGenerator[list[Event], None]:
        return self.worker.events(request)


def app_of(settings: ServeSettings, engines: Engines) -> FastAPI:
    """The web application in front of engines, always ready."""

    async def is_ready() -> bool:
        return True

    return web_app(service_of(settings, engines, is_ready))


@contextlib.contextmanager
def serving(settings: ServeSettings, engines: Engines) -> Iterator[str]:
    """The address of a server in front of ``engines``, which runs until the block ends."""
    listener = socket.create_server(("127.0.0.1", 0))
    ready = threading.Event()
    stop: list[uvicorn.Server] = []

    async def run() -> None:
        app = RequestIdMiddleware(app_of(settings, engines))  # as in Ray Serve
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
        stop.append(server)
        asyncio.get_running_loop().call_soon(ready.set)
        await server.serve([listener])

    thread = threading.Thread(target=lambda: asyncio.run(run()), daemon=True)
    thread.start()
    ready.wait()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        stop[0].should_exit = True
        thread.join()
