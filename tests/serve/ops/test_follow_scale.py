"""Following the number that Kubernetes wants: told when it differs, within bounds, through every trouble."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from yarl import URL

from serve.ops.follow_scale import Bounds, Target, Trouble, follow, main, target_in, wish_of
from tests.serve.ops.wishes import APP, ENGINE, NAME, TOKEN, Cluster, Dashboard, listening

BOUNDS = Bounds(1, 4)
LOOK_SECONDS = 0.02


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("account")


@pytest.fixture
def cluster(files: Path) -> Cluster:
    return Cluster(files)


@pytest.fixture
def kubernetes(cluster: Cluster) -> Iterator[int]:
    """The API server's port."""
    with listening(cluster.app(), tls=cluster.tls) as port:
        yield port


@pytest.fixture
def dashboard() -> Dashboard:
    return Dashboard()


@pytest.fixture
def ray(dashboard: Dashboard) -> Iterator[int]:
    """The dashboard's port."""
    with listening(dashboard.app()) as port:
        yield port


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What was logged so far."""
    caplog.set_level(logging.INFO, "lladav.follow_scale")
    return lambda: [record.getMessage() for record in caplog.records if record.name.startswith("lladav")]


def target_at(port: int, **environment: str) -> Target:
    return Target(URL(f"http://127.0.0.1:{port}"), APP, ENGINE, environment)


def following(
    cluster: Cluster,
    kubernetes: int,
    ray: int,
    what: Callable[[], Any],
    name: str = NAME,
    **environment: str,
) -> None:
    """Follow while ``what`` runs in a thread of its own."""
    wish, target = cluster.wish_at(kubernetes, name), target_at(ray, **environment)

    async def both() -> None:
        task = asyncio.create_task(follow(wish, target, BOUNDS, LOOK_SECONDS))
        await asyncio.to_thread(what)
        assert not task.done(), task
        task.cancel()

    asyncio.run(both())


def until(happened: Callable[[], Any], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_each_wish_is_told_once_and_within_bounds(
    cluster: Cluster, dashboard: Dashboard, kubernetes: int, ray: int, lines: Callable[[], list[str]]
) -> None:
    def wishes() -> None:
        for wish, told in ((3, 3), (9, 4), (2, 2), (0, 1)):
            cluster.wish = wish
            until(lambda told=told: lines()[-1:] and f"has {told} for" in lines()[-1])

    following(cluster, kubernetes, ray, wishes)
    assert dashboard.told == [3, 4, 2, 1]
    assert lines() == [
        "lladav/engine was told 3 instead of 1; the wish is 3",
        "lladav/engine has 3 for its target; the wish is 3",
        "lladav/engine was told 4 instead of 3; the wish is 9, bounds are 1 to 4",
        "lladav/engine has 4 for its target; the wish is 9, bounds are 1 to 4",
        "lladav/engine was told 2 instead of 4; the wish is 2",
        "lladav/engine has 2 for its target; the wish is 2",
        "lladav/engine was told 1 instead of 2; the wish is 0, bounds are 1 to 4",
        "lladav/engine has 1 for its target; the wish is 0, bounds are 1 to 4",
    ]


def test_a_serve_that_begins_anew_is_told_again(
    cluster: Cluster, dashboard: Dashboard, kubernetes: int, ray: int, lines: Callable[[], list[str]]
) -> None:
    cluster.wish = 2

    def restarts() -> None:
        until(lambda: dashboard.told == [2])
        dashboard.target, dashboard.applications = 1, {}
        until(lambda: "no application" in lines()[-1])
        dashboard.applications = None
        until(lambda: dashboard.told == [2, 2])

    following(cluster, kubernetes, ray, restarts)


def test_every_look_connects_anew(cluster: Cluster, dashboard: Dashboard, kubernetes: int, ray: int) -> None:
    """The head's Service leads to another head after an upgrade; an open connection would not."""
    following(cluster, kubernetes, ray, lambda: until(lambda: len(dashboard.peers) > 3))
    assert len(set(dashboard.peers)) == len(dashboard.peers)


def test_servers_that_go_and_come_back(
    cluster: Cluster, dashboard: Dashboard, lines: Callable[[], list[str]]
) -> None:
    ports = free_port(), free_port()
    cluster.wish = 3

    def outages() -> None:
        until(lambda: len(lines()) == 1)
        with listening(cluster.app(), ports[0], cluster.tls):
            until(lambda: len(lines()) == 2)
            with listening(dashboard.app(), ports[1]):
                until(lambda: len(lines()) == 4)
            until(lambda: lines()[-1] == lines()[1])
        assert dashboard.told == [3]

    following(cluster, *ports, outages)
    no_kubernetes, no_ray, told = lines()[:3]
    assert f"127.0.0.1:{ports[0]}" in no_kubernetes
    assert f"127.0.0.1:{ports[1]}" in no_ray
    assert told == "lladav/engine was told 3 instead of 1; the wish is 3"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def test_pauses_grow_while_nothing_answers(cluster: Cluster) -> None:
    pauses: list[float] = []

    async def noted(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 5:
            raise asyncio.CancelledError

    wish, target = cluster.wish_at(free_port()), target_at(free_port())
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(follow(wish, target, BOUNDS, 5.0, noted))
    assert pauses == [10.0, 20.0, 40.0, 40.0, 40.0]


NOT_SCALE = {"kind": "Deployment", "spec": {"replicas": 4}}
NOT_TAKEN = "external_scaler_enabled is false"


@pytest.mark.parametrize(
    ("wrong", "name", "expected"),
    [
        ({"token": "another"}, NAME, "/scale: 401: Unauthorized"),
        ({}, "engine", '/scale: 404: deployments.apps "engine" not found'),
        ({"answer": NOT_SCALE}, NAME, "answers with no Scale"),
        ({"refusal": NOT_TAKEN}, NAME, f"/scale: 412: {NOT_TAKEN}"),
        ({"applications": {}}, NAME, "Serve has no application lladav yet"),
        (
            {"applications": {APP: {"deployments": {}}}},
            NAME,
            "the application lladav has no deployment engine yet",
        ),
    ],
)
def test_what_is_wrong_is_said_once_and_nothing_told(
    wrong: dict[str, Any],
    name: str,
    expected: str,
    cluster: Cluster,
    dashboard: Dashboard,
    kubernetes: int,
    ray: int,
    lines: Callable[[], list[str]],
) -> None:
    cluster.wish = 3
    for field, value in wrong.items():
        setattr(cluster if hasattr(cluster, field) else dashboard, field, value)
    following(cluster, kubernetes, ray, lambda: until(lambda: cluster.asked > 4), name)
    (line,) = lines()
    assert line.startswith("the wish cannot be followed now: ")
    assert line.endswith(expected)
    assert dashboard.told == []


def test_a_token_that_is_replaced_is_read_again(
    cluster: Cluster, dashboard: Dashboard, kubernetes: int, ray: int, lines: Callable[[], list[str]]
) -> None:
    cluster.wish = 2

    def replaces() -> None:
        until(lambda: dashboard.told == [2])
        cluster.token, cluster.wish = "new", 3
        until(lambda: "401" in lines()[-1])
        (cluster.account / "token").write_text("new")
        until(lambda: dashboard.told == [2, 3])

    following(cluster, kubernetes, ray, replaces)


@pytest.mark.parametrize("given", ["RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", None])
def test_ray_gets_its_token_and_not_that_of_kubernetes(
    given: str | None,
    cluster: Cluster,
    dashboard: Dashboard,
    kubernetes: int,
    ray: int,
    tmp_path: Path,
) -> None:
    (tmp_path / "token").write_text("secret\n")
    values = {"RAY_AUTH_TOKEN": "secret", "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")}
    environment = {given: values[given]} if given else {}
    cluster.wish = 2
    following(cluster, kubernetes, ray, lambda: until(lambda: dashboard.told), **environment)
    assert dashboard.tokens == {"Bearer secret" if given else None}


def test_a_stranger_in_the_place_of_the_api_server_is_told_nothing(
    cluster: Cluster, tmp_path: Path, dashboard: Dashboard, ray: int, lines: Callable[[], list[str]]
) -> None:
    stranger = Cluster(tmp_path)
    stranger.wish = 4
    with listening(stranger.app(), tls=stranger.tls) as port:
        following(cluster, port, ray, lambda: until(lines))
    assert "CERTIFICATE_VERIFY_FAILED" in lines()[0]
    assert dashboard.told == []


def test_the_target_is_read_from_what_serve_tells() -> None:
    tells = {"applications": {APP: {"deployments": {ENGINE: {"target_num_replicas": 3}}}}}
    assert target_in(tells, APP, ENGINE) == 3
    with pytest.raises(Trouble, match="is this its address"):
        target_in({}, APP, ENGINE)


def test_a_wish_has_the_address_of_its_scale(cluster: Cluster) -> None:
    environment = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}
    assert str(wish_of("engines", cluster.account, environment).url) == (
        "https://[fd00::1]/apis/apps/v1/namespaces/somewhere/deployments/engines/scale"
    )


NEEDED = ["--wish", NAME, "--max", "2"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "the following arguments are required: --wish, --max"),
        ([*NEEDED, "--wish", "Engines"], "argument --wish: 'Engines' is no name of a Deployment"),
        ([*NEEDED, "--min", "3"], "--min 3 is above --max 2; swap them"),
        ([*NEEDED, "--min", "0"], "argument --min: '0' is no number of replicas from 1 on"),
        ([*NEEDED, "--seconds", "0"], "argument --seconds: '0' is no number of seconds, as in 5"),
        ([*NEEDED, "--dashboard", "head:8265"], "argument --dashboard: 'head:8265' is no address"),
        (NEEDED, "KUBERNETES_SERVICE_HOST and _PORT are not set; run this in a pod"),
    ],
)
def test_arguments_that_cannot_work_are_told_in_a_line(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(arguments, {})
    error = capsys.readouterr().err
    assert (left.value.code, error.count("\n")) == (2, 1)
    assert error.startswith(f"error: {expected}")


def test_a_pod_without_an_account_is_told(cluster: Cluster, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no service account"):
        wish_of(NAME, tmp_path, cluster.environment(443))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_follows_until_it_is_to_end(
    number: signal.Signals, cluster: Cluster, dashboard: Dashboard, kubernetes: int, ray: int, root: Path
) -> None:
    cluster.wish = 2
    command = [sys.executable, "-m", "serve.ops.follow_scale", *NEEDED, "--account", str(cluster.account)]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | cluster.environment(kubernetes)
    with subprocess.Popen(
        [*command, "--dashboard", f"http://127.0.0.1:{ray}"],
        cwd=root,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        until(lambda: dashboard.told == [2])
        process.send_signal(number)
        _, said = process.communicate(timeout=20)
    assert process.returncode == 0, said
    assert "was told 2 instead of 1" in said
    assert said.splitlines()[-1].endswith("INFO ends; Serve keeps its target")
    assert TOKEN not in said
