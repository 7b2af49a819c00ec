"""Copying Kubernetes' replica count to Serve: only changes, within bounds, and through errors."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from yarl import URL

from serve.ops.follow_scale import (
    Bounds,
    ScaleError,
    ServeTarget,
    desired_replicas,
    follow,
    main,
    target_in,
)
from tests.serve.ops.fake_servers import APP, ENGINE, NAME, TOKEN, Dashboard, KubernetesApi, listening
from tests.waiting import wait_for

BOUNDS = Bounds(1, 4)
PERIOD = 0.02


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("account")


@pytest.fixture
def api(files: Path) -> KubernetesApi:
    return KubernetesApi(files)


@pytest.fixture
def kubernetes(api: KubernetesApi) -> Iterator[int]:
    """The API server's port."""
    with listening(api.app(), tls=api.tls) as port:
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
    """The log lines so far."""
    caplog.set_level(logging.INFO, "lladav.follow_scale")
    return lambda: [record.getMessage() for record in caplog.records if record.name.startswith("lladav")]


def target_at(port: int, **environment: str) -> ServeTarget:
    return ServeTarget(URL(f"http://127.0.0.1:{port}"), APP, ENGINE, environment)


def following(
    api: KubernetesApi,
    kubernetes: int,
    ray: int,
    scenario: Callable[[], Any],
    name: str = NAME,
    **environment: str,
) -> None:
    """Follow while ``scenario`` runs in another thread."""
    desired, target = api.desired_at(kubernetes, name), target_at(ray, **environment)

    async def both() -> None:
        task = asyncio.create_task(follow(desired, target, BOUNDS, PERIOD))
        await asyncio.to_thread(scenario)
        assert not task.done(), task
        task.cancel()

    asyncio.run(both())


def test_each_number_is_set_once_and_within_bounds(
    api: KubernetesApi, dashboard: Dashboard, kubernetes: int, ray: int, lines: Callable[[], list[str]]
) -> None:
    def scenario() -> None:
        for replicas, target in ((3, 3), (9, 4), (2, 2), (0, 1)):
            api.replicas = replicas
            wait_for(lambda target=target: lines()[-1:] and f"target is {target}" in lines()[-1])

    following(api, kubernetes, ray, scenario)
    assert dashboard.targets == [3, 4, 2, 1]
    assert lines() == [
        "lladav/engine: target changed from 1 to 3 (3 desired)",
        "lladav/engine: target is 3 (3 desired)",
        "lladav/engine: target changed from 3 to 4 (9 desired, bounds 1 to 4)",
        "lladav/engine: target is 4 (9 desired, bounds 1 to 4)",
        "lladav/engine: target changed from 4 to 2 (2 desired)",
        "lladav/engine: target is 2 (2 desired)",
        "lladav/engine: target changed from 2 to 1 (0 desired, bounds 1 to 4)",
        "lladav/engine: target is 1 (0 desired, bounds 1 to 4)",
    ]


def test_a_restarted_serve_gets_the_number_again(
    api: KubernetesApi, dashboard: Dashboard, kubernetes: int, ray: int, lines: Callable[[], list[str]]
) -> None:
    api.replicas = 2

    def restarts() -> None:
        wait_for(lambda: dashboard.targets == [2])
        dashboard.target, dashboard.applications = 1, {}
        wait_for(lambda: "no application" in lines()[-1])
        dashboard.applications = None
        wait_for(lambda: dashboard.targets == [2, 2])

    following(api, kubernetes, ray, restarts)


def test_every_iteration_opens_new_connections(
    api: KubernetesApi, dashboard: Dashboard, kubernetes: int, ray: int
) -> None:
    """After an upgrade the head's Service points to another head; an open connection would not."""
    following(api, kubernetes, ray, lambda: wait_for(lambda: len(dashboard.peers) > 3))
    assert len(set(dashboard.peers)) == len(dashboard.peers)


def test_servers_that_stop_and_restart(
    api: KubernetesApi, dashboard: Dashboard, lines: Callable[[], list[str]]
) -> None:
    ports = free_port(), free_port()
    api.replicas = 3

    def outages() -> None:
        wait_for(lambda: len(lines()) == 1)
        with listening(api.app(), ports[0], api.tls):
            wait_for(lambda: len(lines()) == 2)
            with listening(dashboard.app(), ports[1]):
                wait_for(lambda: len(lines()) == 4)
            wait_for(lambda: lines()[-1] == lines()[1])
        assert dashboard.targets == [3]

    following(api, *ports, outages)
    no_kubernetes, no_ray, changed = lines()[:3]
    assert f"127.0.0.1:{ports[0]}" in no_kubernetes
    assert f"127.0.0.1:{ports[1]}" in no_ray
    assert changed == "lladav/engine: target changed from 1 to 3 (3 desired)"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def test_pauses_grow_while_requests_fail(api: KubernetesApi) -> None:
    pauses: list[float] = []

    async def record_pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 5:
            raise asyncio.CancelledError

    desired, target = api.desired_at(free_port()), target_at(free_port())
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(follow(desired, target, BOUNDS, 5.0, record_pause))
    assert pauses == [10.0, 20.0, 40.0, 40.0, 40.0]


NOT_SCALE = {"kind": "Deployment", "spec": {"replicas": 4}}
REJECTED = "external_scaler_enabled is false"


@pytest.mark.parametrize(
    ("wrong", "name", "expected"),
    [
        ({"token": "another"}, NAME, "/scale: 401: Unauthorized"),
        ({}, "engine", '/scale: 404: deployments.apps "engine" not found'),
        ({"answer": NOT_SCALE}, NAME, "the response is not a Scale"),
        ({"refusal": REJECTED}, NAME, f"/scale: 412: {REJECTED}"),
        ({"applications": {}}, NAME, "Serve has no application lladav yet"),
        (
            {"applications": {APP: {"deployments": {}}}},
            NAME,
            "the application lladav has no deployment engine yet",
        ),
    ],
)
def test_an_error_is_logged_once_and_nothing_is_set(
    wrong: dict[str, Any],
    name: str,
    expected: str,
    api: KubernetesApi,
    dashboard: Dashboard,
    kubernetes: int,
    ray: int,
    lines: Callable[[], list[str]],
) -> None:
    api.replicas = 3
    for field, value in wrong.items():
        setattr(api if hasattr(api, field) else dashboard, field, value)
    following(api, kubernetes, ray, lambda: wait_for(lambda: api.requests > 4), name)
    (line,) = lines()
    assert line.startswith("cannot set the replica count now: ")
    assert line.endswith(expected)
    assert dashboard.targets == []


def test_a_replaced_token_is_read_again(
    api: KubernetesApi, dashboard: Dashboard, kubernetes: int, ray: int, lines: Callable[[], list[str]]
) -> None:
    api.replicas = 2

    def replaces() -> None:
        wait_for(lambda: dashboard.targets == [2])
        api.token, api.replicas = "new", 3
        wait_for(lambda: "401" in lines()[-1])
        (api.account / "token").write_text("new")
        wait_for(lambda: dashboard.targets == [2, 3])

    following(api, kubernetes, ray, replaces)


@pytest.mark.parametrize("given", ["RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", None])
def test_ray_gets_its_own_token(
    given: str | None,
    api: KubernetesApi,
    dashboard: Dashboard,
    kubernetes: int,
    ray: int,
    tmp_path: Path,
) -> None:
    (tmp_path / "token").write_text("secret\n")
    values = {"RAY_AUTH_TOKEN": "secret", "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")}
    environment = {given: values[given]} if given else {}
    api.replicas = 2
    following(api, kubernetes, ray, lambda: wait_for(lambda: dashboard.targets), **environment)
    assert dashboard.tokens == {"Bearer secret" if given else None}


def test_an_api_server_with_an_untrusted_certificate_is_not_used(
    api: KubernetesApi, tmp_path: Path, dashboard: Dashboard, ray: int, lines: Callable[[], list[str]]
) -> None:
    impostor = KubernetesApi(tmp_path)
    impostor.replicas = 4
    with listening(impostor.app(), tls=impostor.tls) as port:
        following(api, port, ray, lambda: wait_for(lines))
    assert "CERTIFICATE_VERIFY_FAILED" in lines()[0]
    assert dashboard.targets == []


def test_the_target_is_read_from_serves_response() -> None:
    details = {"applications": {APP: {"deployments": {ENGINE: {"target_num_replicas": 3}}}}}
    assert target_in(details, APP, ENGINE) == 3
    with pytest.raises(ScaleError, match="is this its address"):
        target_in({}, APP, ENGINE)


def test_the_url_of_the_scale(api: KubernetesApi) -> None:
    environment = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}
    assert str(desired_replicas("engines", api.account, environment).url) == (
        "https://[fd00::1]/apis/apps/v1/namespaces/somewhere/deployments/engines/scale"
    )


NEEDED = ["--wish", NAME, "--max", "2"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "the following arguments are required: --wish, --max"),
        ([*NEEDED, "--wish", "Engines"], "argument --wish: 'Engines' is not a valid name of a Deployment"),
        ([*NEEDED, "--min", "3"], "--min 3 is above --max 2; swap them"),
        ([*NEEDED, "--min", "0"], "argument --min: '0' is not a number of replicas; use 1 or more"),
        ([*NEEDED, "--seconds", "0"], "argument --seconds: '0' is not a number of seconds, such as 5"),
        ([*NEEDED, "--dashboard", "head:8265"], "argument --dashboard: 'head:8265' is not an address"),
        (NEEDED, "KUBERNETES_SERVICE_HOST and _PORT are not set; run this in a pod"),
    ],
)
def test_invalid_arguments_give_one_line(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exited:
        main(arguments, {})
    error = capsys.readouterr().err
    assert (exited.value.code, error.count("\n")) == (2, 1)
    assert error.startswith(f"error: {expected}")


def test_a_pod_without_a_service_account_is_an_error(api: KubernetesApi, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no service account"):
        desired_replicas(NAME, tmp_path, api.environment(443))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_runs_until_a_signal(
    number: signal.Signals, api: KubernetesApi, dashboard: Dashboard, kubernetes: int, ray: int, root: Path
) -> None:
    api.replicas = 2
    command = [sys.executable, "-m", "serve.follow_scale", *NEEDED, "--account", str(api.account)]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | api.environment(kubernetes)
    with subprocess.Popen(
        [*command, "--dashboard", f"http://127.0.0.1:{ray}"],
        cwd=root,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        wait_for(lambda: dashboard.targets == [2])
        process.send_signal(number)
        _, log = process.communicate(timeout=20)
    assert process.returncode == 0, log
    assert "target changed from 1 to 2" in log
    assert log.splitlines()[-1].endswith("INFO stopped; Serve keeps its target")
    assert TOKEN not in log
