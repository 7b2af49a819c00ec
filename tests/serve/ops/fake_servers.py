"""The servers that ``follow_scale`` talks to: Kubernetes' API server and Ray's dashboard, in part.

Both are real HTTP servers, each in its own thread. The API server uses TLS and requires its token.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aiohttp import web

from serve.ops.follow_scale import DesiredReplicas, desired_replicas
from tests.serve.https import Authority

NAMESPACE, NAME, TOKEN = "somewhere", "engines", "kubernetes-token"
APP, ENGINE = "lladav", "engine"


class KubernetesApi:
    """An API server with the scale of one Deployment."""

    def __init__(self, folder: Path) -> None:
        authority = Authority(folder)
        self.account, self.replicas, self.token, self.requests = folder, 1, TOKEN, 0
        self.answer: dict[str, Any] | None = None
        self.tls = authority.server
        (folder / "token").write_text(f"{TOKEN}\n")
        (folder / "namespace").write_text(NAMESPACE)
        (folder / "ca.crt").write_bytes(authority.file.read_bytes())

    def environment(self, port: int) -> dict[str, str]:
        """The variables that Kubernetes sets in each pod."""
        return {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(port)}

    def desired_at(self, port: int, name: str = NAME) -> DesiredReplicas:
        return desired_replicas(name, self.account, self.environment(port))

    def app(self) -> web.Application:
        app = web.Application()
        path = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{{name}}/scale"
        app.router.add_get(path, self._scale)
        return app

    async def _scale(self, request: web.Request) -> web.Response:
        self.requests += 1
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            return _status(401, "Unauthorized")
        if request.match_info["name"] != NAME:
            return _status(404, f'deployments.apps "{request.match_info["name"]}" not found')
        spec = {"replicas": self.replicas} if self.replicas else {}  # Kubernetes omits zeros
        metadata = {"name": NAME, "namespace": NAMESPACE}
        scale = {"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata, "spec": spec}
        return web.json_response(self.answer or scale)


def _status(code: int, message: str) -> web.Response:
    return web.json_response({"kind": "Status", "message": message, "code": code}, status=code)


class Dashboard:
    """Ray's dashboard with one Serve application."""

    def __init__(self, target: int = 1) -> None:
        self.target, self.targets, self.refusal = target, list[int](), ""
        self.applications: dict[str, Any] | None = None
        self.tokens, self.peers = set[str | None](), list[Any]()

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/api/serve/applications/", self._applications)
        app.router.add_post(f"/api/v1/applications/{APP}/deployments/{ENGINE}/scale", self._scale)
        return app

    async def _applications(self, request: web.Request) -> web.Response:
        self.tokens.add(request.headers.get("Authorization"))
        self.peers.append(request.transport and request.transport.get_extra_info("peername"))
        running = {APP: {"deployments": {ENGINE: {"target_num_replicas": self.target}}}}
        applications = running if self.applications is None else self.applications
        return web.json_response({"applications": applications})

    async def _scale(self, request: web.Request) -> web.Response:
        self.tokens.add(request.headers.get("Authorization"))
        if self.refusal:
            return web.json_response({"error": self.refusal}, status=412)
        self.target = (await request.json())["target_num_replicas"]
        self.targets.append(self.target)
        return web.json_response({"message": "Scaling request received."})


@contextlib.contextmanager
def listening(app: web.Application, port: int = 0, tls: ssl.SSLContext | None = None) -> Iterator[int]:
    """Run a server for the block; yields its port."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    runner = web.AppRunner(app, shutdown_timeout=1.0)

    async def begin() -> int:
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port, ssl_context=tls).start()
        return runner.addresses[0][1]

    try:
        yield asyncio.run_coroutine_threadsafe(begin(), loop).result(10)
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
