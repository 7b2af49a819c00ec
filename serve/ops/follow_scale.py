"""Sets the number of Ray Serve's engine replicas to the replica count of a Kubernetes Deployment.

    python -m serve.follow_scale --wish lladav-engines-wanted --max 4

An HPA or a KEDA ScaledObject can only scale a resource with a scale subresource, and a Serve deployment has
none. Therefore it scales a placeholder Deployment of pause pods, and this process copies the replica count to
Serve. That needs a Role in one namespace. A custom resource with a scale subresource would avoid the pause
pods, but it has to be installed for the whole cluster. Running this process in the placeholder's own pods
would start it once per replica.

The process keeps no state: each iteration compares the desired number with Serve's current target. So a
restarted Ray, or another cluster behind the same Service, gets the number again.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import os
import re
import signal
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from yarl import URL

from lladav.config.cli import OneLineParser, one_line_errors
from lladav.errors import UserError

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where a pod finds ``token``, ``ca.crt`` and ``namespace`` of its service account."""
REQUEST_SECONDS = 15.0
MAX_BACKOFF = 8
"""After errors the pause doubles up to this multiple of ``--seconds``."""

log = logging.getLogger("lladav.follow_scale")


class ScaleError(Exception):
    """The replica count cannot be read or set at the moment; the message is one line."""


@dataclass(frozen=True)
class DesiredReplicas:
    """The replica count of the placeholder Deployment, read from the API server."""

    url: URL
    account: Path
    tls: ssl.SSLContext

    async def read(self, session: aiohttp.ClientSession) -> int:
        # The token is read each time: Kubernetes replaces it every hour.
        token = (self.account / "token").read_text().strip()
        scale = await _request(session, "GET", self.url, token, ssl=self.tls)
        if scale.get("kind") != "Scale":
            raise ScaleError(f"{self.url}: the response is not a Scale")
        return scale.get("spec", {}).get("replicas", 0)  # Kubernetes omits zeros


@dataclass(frozen=True)
class ServeTarget:
    """The target replica count of a Serve deployment, through the dashboard of Ray's head."""

    dashboard: URL
    app: str
    deployment: str
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables with Ray's token, see ``ray_token``."""

    async def read(self, session: aiohttp.ClientSession) -> int:
        url = self.dashboard / "api/serve/applications/"
        details = await _request(session, "GET", url, ray_token(self.environment))
        return target_in(details, self.app, self.deployment)

    async def write(self, session: aiohttp.ClientSession, replicas: int) -> None:
        path = f"api/v1/applications/{self.app}/deployments/{self.deployment}/scale"
        body = {"target_num_replicas": replicas}
        await _request(session, "POST", self.dashboard / path, ray_token(self.environment), json=body)


@dataclass(frozen=True)
class Bounds:
    """Limits for the target, whatever number is desired."""

    min: int
    max: int

    def clamp(self, replicas: int) -> int:
        return max(self.min, min(replicas, self.max))


async def reconcile(
    session: aiohttp.ClientSession, desired: DesiredReplicas, target: ServeTarget, bounds: Bounds
) -> str:
    """Set Serve's target to the desired number if it differs; returns a line for the log.

    Raises ``ScaleError``, and what ``aiohttp`` raises if a server does not answer.
    """
    wanted, current = await desired.read(session), await target.read(session)
    new = bounds.clamp(wanted)
    reason = f"{wanted} desired" + (f", bounds {bounds.min} to {bounds.max}" if new != wanted else "")
    if new == current:
        return f"{target.app}/{target.deployment}: target is {current} ({reason})"
    await target.write(session, new)
    return f"{target.app}/{target.deployment}: target changed from {current} to {new} ({reason})"


async def follow(
    desired: DesiredReplicas,
    target: ServeTarget,
    bounds: Bounds,
    seconds: float,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Reconcile every ``seconds`` until cancelled; logs a line whenever the result changes.

    Each request opens a new connection: an open one would stay with the head of a Ray cluster that is
    replaced.
    """
    last_line, pause = "", seconds
    timeout, connector = aiohttp.ClientTimeout(total=REQUEST_SECONDS), aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
        while True:
            try:
                line = await reconcile(session, desired, target, bounds)
                level, pause = logging.INFO, seconds
            except (ScaleError, aiohttp.ClientError, OSError) as error:
                message = " ".join(str(error).split()) or f"no answer in {REQUEST_SECONDS:.0f} s"
                line = f"cannot set the replica count now: {message}"
                level, pause = logging.WARNING, min(2 * pause, MAX_BACKOFF * seconds)
            if line != last_line:
                log.log(level, "%s", line)
            last_line = line
            await sleep(pause)


def target_in(details: Mapping[str, Any], app: str, deployment: str) -> int:
    """The target of a deployment in Serve's REST response; raises ``ScaleError`` if it has none."""
    applications = details.get("applications")
    if not isinstance(applications, Mapping):
        raise ScaleError("Ray's dashboard lists no applications; is this its address?")
    if app not in applications:
        raise ScaleError(f"Serve has no application {app} yet")
    deployments = applications[app].get("deployments") or {}
    if deployment not in deployments:
        raise ScaleError(f"the application {app} has no deployment {deployment} yet")
    return deployments[deployment]["target_num_replicas"]


def ray_token(environment: Mapping[str, str]) -> str | None:
    """Ray's token from the variables that Ray itself reads; None if Ray requires no token."""
    if token := environment.get("RAY_AUTH_TOKEN", "").strip():
        return token
    file = environment.get("RAY_AUTH_TOKEN_PATH")
    return Path(file).read_text().strip() if file else None


async def _request(
    session: aiohttp.ClientSession, method: str, url: URL, token: str | None, **options: Any
) -> Mapping[str, Any]:
    """The JSON object in the response; raises ``ScaleError`` for any other response."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with session.request(method, url, headers=headers, **options) as response:
        text = await response.text(errors="replace")
    try:
        body = json.loads(text)
    except ValueError:
        body = None
    if response.status != 200:
        raise ScaleError(f"{method} {url}: {response.status}: {_reason(body, text)}")
    if not isinstance(body, Mapping):
        raise ScaleError(f"{method} {url}: the response is not a JSON object")
    return body


def _reason(body: Any, text: str) -> str:
    """The message of an error: Kubernetes sends it as ``message``, Ray as ``error`` or as plain text."""
    fields = body if isinstance(body, Mapping) else {}
    return " ".join(str(fields.get("message") or fields.get("error") or text).split())[:300]


def desired_replicas(name: str, account: Path, environment: Mapping[str, str]) -> DesiredReplicas:
    """The Deployment ``name`` in this pod's namespace; raises ``UserError`` outside of a cluster."""
    host, port = (environment.get(f"KUBERNETES_SERVICE_{part}") for part in ("HOST", "PORT"))
    if not host or not port:
        raise UserError("KUBERNETES_SERVICE_HOST and _PORT are not set; run this in a pod")
    try:
        namespace = (account / "namespace").read_text().strip()
        tls = ssl.create_default_context(cafile=account / "ca.crt")
    except (OSError, ssl.SSLError) as error:
        raise UserError(f"{account}: no service account ({error}); mount the pod's token there") from None
    path = f"/apis/apps/v1/namespaces/{namespace}/deployments/{name}/scale"
    return DesiredReplicas(URL.build(scheme="https", host=host, port=int(port), path=path), account, tls)


def options_of(arguments: Sequence[str]) -> argparse.Namespace:
    """The parsed command line; raises ``UserError`` for invalid arguments."""
    parser = OneLineParser(prog="python -m serve.follow_scale", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--wish",
        dest="placeholder",
        required=True,
        type=_name,
        help="Deployment whose replica count is the desired number",
    )
    parser.add_argument("--min", default=1, type=_count, help="minimum of engine replicas")
    parser.add_argument("--max", required=True, type=_count, help="maximum of engine replicas")
    dashboard = URL("http://lladav-head-svc:8265")
    parser.add_argument("--dashboard", default=dashboard, type=_address, help="address of Ray's dashboard")
    parser.add_argument("--app", default="lladav", help="Serve application")
    parser.add_argument("--deployment", default="engine", help="deployment of the application")
    parser.add_argument("--seconds", default=5.0, type=_seconds, help="time between two iterations")
    parser.add_argument("--account", default=ACCOUNT, type=Path, help="folder of the service account")
    options = parser.parse_args(arguments)
    if options.min > options.max:
        raise UserError(f"--min {options.min} is above --max {options.max}; swap them")
    return options


def _count(text: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,3}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of replicas; use 1 or more")
    return int(text)


def _seconds(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,4}(\.[0-9]+)?", text) or not float(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds, such as 5")
    return float(text)


def _name(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a valid name of a Deployment")
    return text


def _address(text: str) -> URL:
    with contextlib.suppress(ValueError):
        if (url := URL(text)).scheme in ("http", "https") and url.host:
            return url
    raise argparse.ArgumentTypeError(f"{text!r} is not an address, such as http://lladav-head-svc:8265")


async def _run(options: argparse.Namespace, environment: Mapping[str, str]) -> None:
    """Follow until SIGTERM or SIGINT; the exit code is then 0, and Serve keeps its target."""
    desired = desired_replicas(options.placeholder, options.account, environment)
    target = ServeTarget(options.dashboard, options.app, options.deployment, environment)
    bounds = Bounds(options.min, options.max)
    following = asyncio.ensure_future(follow(desired, target, bounds, options.seconds))
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, following.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await following
    log.info("stopped; Serve keeps its target")


def main(arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> None:
    """Run the command; invalid arguments or a missing service account give one line and exit code 2."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    with one_line_errors():
        asyncio.run(_run(options_of(arguments), environment))
