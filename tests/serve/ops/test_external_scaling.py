"""Ray Serve has as many engine replicas as Kubernetes wants, also after a new version."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import httpx2 as httpx
import pytest
import yaml

from lladav.cluster import local_head
from serve.ops.config_check import check
from tests.serve.clusters import APP, ENGINE, put
from tests.serve.ops.wishes import NAME, Cluster, listening

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(300)]

T = TypeVar("T")


@pytest.fixture(scope="module")
def config(root: Path, model_folder: Path) -> dict[str, Any]:
    """The documented file, in which the engines are counted by something else."""
    config = yaml.safe_load((root / "docs/serve_config.yaml").read_text())
    with socket.create_server(("127.0.0.1", 0)) as probe:
        config["http_options"]["port"] = probe.getsockname()[1]
    (application,) = config["applications"]
    application["external_scaler_enabled"] = True
    application["args"] |= {"model": str(model_folder), "scaling.external": True}
    return config


@pytest.fixture(scope="module")
def applications(root: Path) -> Iterator[str]:
    """Where a Ray of its own is told of applications."""
    with local_head(cpus=4, variables={"PYTHONPATH": f"{root / 'platform'}:{root}"}) as head:
        yield f"{head.dashboard}/api/serve/applications/"


def test_the_config_is_understood(config: dict[str, Any]) -> None:
    check(config)


def test_the_wish_is_followed_up_and_down_and_told_to_a_new_version(
    applications: str, config: dict[str, Any], tmp_path: Path
) -> None:
    cluster = Cluster(tmp_path)
    engine = put(applications, config)["deployments"][ENGINE]
    assert (running(engine), engine["deployment_config"]["num_replicas"]) == (1, 1)
    with follower(cluster, applications.split("/api/")[0]) as log:
        wait_until(lambda: lines(log))
        cluster.wish = 2
        wait_for(applications, 2)
        begun = time.time()
        config["applications"][0]["args"]["limits.max_tokens"] = 128
        httpx.put(applications, json=config, timeout=60).raise_for_status()
        wait_until(lambda: lines(log)[5:])
        cluster.wish = 1
        (replica,) = wait_for(applications, 1)["replicas"]
        assert replica["start_time_s"] > begun
        wait_until(lambda: lines(log)[7:])
    assert lines(log) == [
        "has 1 for its target; the wish is 1",
        "was told 2 instead of 1; the wish is 2",
        "has 2 for its target; the wish is 2",
        "the wish cannot be followed now: the application lladav has no deployment engine yet",
        "was told 2 instead of 1; the wish is 2",
        "has 2 for its target; the wish is 2",
        "was told 1 instead of 2; the wish is 1",
        "has 1 for its target; the wish is 1",
        "ends; Serve keeps its target",
    ]


@contextlib.contextmanager
def follower(cluster: Cluster, dashboard: str) -> Iterator[Path]:
    """The command beside an API server that has a wish; gives its log."""
    log = cluster.account / "log"
    command = [
        sys.executable,
        "-m",
        "serve.ops.follow_scale",
        "--wish",
        NAME,
        "--max",
        "2",
        "--seconds",
        "0.2",
    ]
    with listening(cluster.app(), tls=cluster.tls) as port, log.open("w") as output:
        with subprocess.Popen(
            [*command, "--account", str(cluster.account), "--dashboard", dashboard],
            env={**os.environ, **cluster.environment(port)},
            stderr=output,
        ) as process:
            try:
                yield log
            finally:
                process.terminate()
        assert process.returncode == 0


def lines(log: Path) -> list[str]:
    """What the follower has said, without times and the name of the deployment."""
    prefix = re.compile(rf"^.{{23}} (INFO|WARNING) ({APP}/{ENGINE} )?")
    return [prefix.sub("", line) for line in log.read_text().splitlines()]


def wait_for(applications: str, replicas: int) -> dict[str, Any]:
    """Until the engines are so many, all of them running; what Ray says of them."""

    def engines() -> dict[str, Any] | None:
        engine = httpx.get(applications, timeout=30).json()["applications"][APP]["deployments"][ENGINE]
        return engine if running(engine) == len(engine["replicas"]) == replicas else None

    return wait_until(engines)


def wait_until(found: Callable[[], T | None]) -> T:
    """What is found, once it is."""
    deadline = time.monotonic() + 60
    while not (result := found()):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return result


def running(engine: dict[str, Any]) -> int:
    return sum(replica["state"] == "RUNNING" for replica in engine["replicas"])
