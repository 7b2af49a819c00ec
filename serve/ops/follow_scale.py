"""As many engine replicas as an autoscaler of Kubernetes wants, told to Ray Serve.

    python -m serve.follow_scale --wish lladav-engines-wanted --max 4

An HPA or a KEDA ScaledObject scales only what has a scale in Kubernetes, which a deployment of Serve has not:
so it scales a Deployment of pods that do nothing, the wish, and this process passes its number on. That takes
a Role in one namespace; a resource of our own with a scale would spare the idle pods, but has to be installed
for the whole cluster, and following in the wish's own pods would pull this image once for each.

What was told before is not remembered: each look compares the wish with what Serve aims at now. A Ray that
starts anew, or another cluster behind the same Service, is told again.
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
"""Where a pod finds what it needs to ask the API server: ``token``, ``ca.crt`` and ``namespace``."""
ANSWER_SECONDS = 15.0
SLOWEST = 8
"""Pauses grow while something does not answer, up to so many times the usual one."""

log = logging.getLogger("lladav.follow_scale")


class Trouble(Exception):
    """Why the wish cannot be followed at the moment, in one line."""


@dataclass(frozen=True)
class Wish:
    """The Deployment whose number of replicas is followed, at the API server."""

    url: URL
    account: Path
    trusted: ssl.SSLContext

    async def replicas(self, session: aiohttp.ClientSession) -> int:
        """The number that is wished for. The token is read each time: Kubernetes replaces it every hour."""
        token = (self.account / "token").read_text().strip()
        scale = await _asked(session, "GET", self.url, token, ssl=self.trusted)
        if scale.get("kind") != "Scale":
            raise Trouble(f"{self.url}: answers with no Scale")
        return scale.get("spec", {}).get("replicas", 0)  # Kubernetes leaves zeros out


@dataclass(frozen=True)
class Target:
    """The number of replicas that Serve aims at for a deployment, through the dashboard of Ray's head."""

    dashboard: URL
    app: str
    deployment: str
    environment: Mapping[str, str] = field(default_factory=dict)
    """Where Ray's token is, see ``ray_token``."""

    async def replicas(self, session: aiohttp.ClientSession) -> int:
        url = self.dashboard / "api/serve/applications/"
        details = await _asked(session, "GET", url, ray_token(self.environment))
        return target_in(details, self.app, self.deployment)

    async def set(self, session: aiohttp.ClientSession, replicas: int) -> None:
        path = f"api/v1/applications/{self.app}/deployments/{self.deployment}/scale"
        number = {"target_num_replicas": replicas}
        await _asked(session, "POST", self.dashboard / path, ray_token(self.environment), json=number)


@dataclass(frozen=True)
class Bounds:
    """The least and the most replicas that are ever told, whatever the wish is."""

    least: int
    most: int

    def clamp(self, wished: int) -> int:
        return max(self.least, min(wished, self.most))


async def look(session: aiohttp.ClientSession, wish: Wish, target: Target, bounds: Bounds) -> str:
    """Compare once, tell Serve the number if it has another, and say how things are.

    Raises ``Trouble`` or what ``aiohttp`` raises where someone does not answer as expected.
    """
    wished, now = await wish.replicas(session), await target.replicas(session)
    wanted = bounds.clamp(wished)
    reason = f"the wish is {wished}" + (f", bounds are {bounds.least} to {bounds.most}" * (wished != wanted))
    if wanted == now:
        return f"{target.app}/{target.deployment} has {now} for its target; {reason}"
    await target.set(session, wanted)
    return f"{target.app}/{target.deployment} was told {wanted} instead of {now}; {reason}"


async def follow(
    wish: Wish,
    target: Target,
    bounds: Bounds,
    seconds: float,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Look every ``seconds`` until cancelled; each change since the last look is a line in the log.

    Each look opens a new connection: an open one would stay with the head of a Ray cluster that is replaced.
    """
    said, pause = "", seconds
    timeout, connector = aiohttp.ClientTimeout(total=ANSWER_SECONDS), aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
        while True:
            try:
                level, line, pause = logging.INFO, await look(session, wish, target, bounds), seconds
            except (Trouble, aiohttp.ClientError, OSError) as error:
                level, line, pause = logging.WARNING, _why(error), min(2 * pause, SLOWEST * seconds)
            if line != said:
                log.log(level, "%s", line)
            said = line
            await sleep(pause)


def target_in(details: Mapping[str, Any], app: str, deployment: str) -> int:
    """The target of a deployment in what Serve tells about itself; raises ``Trouble`` where it has none."""
    applications = details.get("applications")
    if not isinstance(applications, Mapping):
        raise Trouble("Ray's dashboard tells of no applications; is this its address?")
    if app not in applications:
        raise Trouble(f"Serve has no application {app} yet")
    deployments = applications[app].get("deployments") or {}
    if deployment not in deployments:
        raise Trouble(f"the application {app} has no deployment {deployment} yet")
    return deployments[deployment]["target_num_replicas"]


def ray_token(environment: Mapping[str, str]) -> str | None:
    """Ray's token from the variables that Ray reads; none where Ray asks for none."""
    if token := environment.get("RAY_AUTH_TOKEN", "").strip():
        return token
    file = environment.get("RAY_AUTH_TOKEN_PATH")
    return Path(file).read_text().strip() if file else None


async def _asked(
    session: aiohttp.ClientSession, method: str, url: URL, token: str | None, **given: Any
) -> Mapping[str, Any]:
    """The JSON object of an answer; raises ``Trouble`` for one that is none, or that refuses."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with session.request(method, url, headers=headers, **given) as response:
        text = await response.text(errors="replace")
    try:
        answer = json.loads(text)
    except ValueError:
        answer = None
    if response.status != 200:
        raise Trouble(f"{method} {url}: {response.status}: {_reason(answer, text)}")
    if not isinstance(answer, Mapping):
        raise Trouble(f"{method} {url}: answers with no JSON object")
    return answer


def _reason(answer: Any, text: str) -> str:
    """What an error says: of Kubernetes under ``message``, of Ray under ``error`` or as plain text."""
    told = answer if isinstance(answer, Mapping) else {}
    return " ".join(str(told.get("message") or told.get("error") or text).split())[:300]


def _why(error: Exception) -> str:
    told = " ".join(str(error).split()) or f"no answer in {ANSWER_SECONDS:.0f} s"
    return f"the wish cannot be followed now: {told}"


def wish_of(name: str, account: Path, environment: Mapping[str, str]) -> Wish:
    """The Deployment of that name in this pod's namespace; raises ``UserError`` outside of a cluster."""
    host, port = (environment.get(f"KUBERNETES_SERVICE_{part}") for part in ("HOST", "PORT"))
    if not host or not port:
        raise UserError("KUBERNETES_SERVICE_HOST and _PORT are not set; run this in a pod")
    try:
        namespace = (account / "namespace").read_text().strip()
        trusted = ssl.create_default_context(cafile=account / "ca.crt")
    except (OSError, ssl.SSLError) as error:
        raise UserError(f"{account}: no service account ({error}); mount the pod's token there") from None
    path = f"/apis/apps/v1/namespaces/{namespace}/deployments/{name}/scale"
    return Wish(URL.build(scheme="https", host=host, port=int(port), path=path), account, trusted)


def options_of(arguments: Sequence[str]) -> argparse.Namespace:
    """What the command line says; raises ``UserError`` for what cannot work."""
    parser = OneLineParser(prog="python -m serve.follow_scale", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--wish", required=True, type=_name, help="the Deployment whose replicas are counted")
    parser.add_argument("--min", default=1, type=_count, help="engine replicas that there always are")
    parser.add_argument("--max", required=True, type=_count, help="engine replicas that there are at most")
    dashboard = URL("http://lladav-head-svc:8265")
    parser.add_argument("--dashboard", default=dashboard, type=_address, help="of Ray's head")
    parser.add_argument("--app", default="lladav", help="of Serve")
    parser.add_argument("--deployment", default="engine", help="of the application")
    parser.add_argument("--seconds", default=5.0, type=_seconds, help="from one look to the next")
    parser.add_argument("--account", default=ACCOUNT, type=Path, help="folder of the service account")
    options = parser.parse_args(arguments)
    if options.min > options.max:
        raise UserError(f"--min {options.min} is above --max {options.max}; swap them")
    return options


def _count(text: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,3}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of replicas from 1 on")
    return int(text)


def _seconds(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,4}(\.[0-9]+)?", text) or not float(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds, as in 5")
    return float(text)


def _name(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no name of a Deployment")
    return text


def _address(text: str) -> URL:
    with contextlib.suppress(ValueError):
        if (url := URL(text)).scheme in ("http", "https") and url.host:
            return url
    raise argparse.ArgumentTypeError(f"{text!r} is no address, as in http://lladav-head-svc:8265")


async def _run(options: argparse.Namespace, environment: Mapping[str, str]) -> None:
    """Follow until SIGTERM or SIGINT, which end with exit code 0 and leave the target as it is."""
    wish = wish_of(options.wish, options.account, environment)
    target = Target(options.dashboard, options.app, options.deployment, environment)
    following = asyncio.ensure_future(follow(wish, target, Bounds(options.min, options.max), options.seconds))
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, following.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await following
    log.info("ends; Serve keeps its target")


def main(arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> None:
    """Exit code 2 and one line for arguments, or an environment, that cannot work."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    with one_line_errors():
        asyncio.run(_run(options_of(arguments), environment))
