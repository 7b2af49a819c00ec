"""Ray Serve gets the replica count of a Kubernetes Deployment, also after a new version is deployed."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
import yaml

from lladav.cluster import local_head
from serve.ops.config_check import check
from tests.serve.clusters import APP, ENGINE, put
from tests.serve.ops.fake_servers import NAME, KubernetesApi, listening
from tests.waiting import wait_for

pytestmark = [pytest.mark.proof, pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def config(root: Path, model_folder: Path) -> dict[str, Any]:
    """The documented file, with external scaling of the engines."""
    config = yaml.safe_load((root / "docs/serve_config.yaml").read_text())
    with socket.create_server(("127.0.0.1", 0)) as probe:
        config["http_options"]["port"] = probe.getsockname()[1]
    (application,) = config["applications"]
    application["external_scaler_enabled"] = True
    application["args"] |= {"model": str(model_folder), "scaling.external": True}
    return config


@pytest.fixture(scope="module")
def applications() -> Iterator[str]:
    """URL of the applications of a private Ray."""
    with local_head(cpus=4) as head:
        yield f"{head.dashboard}/api/serve/applications/"


def test_the_config_is_understood(config: dict[str, Any]) -> None:
    check(config)


@pytest.mark.usefixtures("takes_minutes")
def test_the_replica_count_is_followed_up_and_down_and_across_a_new_version(
    applications: str, config: dict[str, Any], tmp_path: Path
) -> None:
    api = KubernetesApi(tmp_path)
    engine = put(applications, config)["deployments"][ENGINE]
    assert (running(engine), engine["deployment_config"]["num_replicas"]) == (1, 1)
    with follower(api, applications.split("/api/")[0]) as log:
        wait_for(lambda: lines(log))
        api.replicas = 2
        wait_for_engines(applications, 2)
        begun = time.time()
        config["applications"][0]["args"]["limits.max_tokens"] = 128
        httpx.put(applications, json=config, timeout=60).raise_for_status()
        wait_for(lambda: lines(log)[5:])
        api.replicas = 1
        (replica,) = wait_for_engines(applications, 1)["replicas"]
        assert replica["start_time_s"] > begun
        wait_for(lambda: lines(log)[7:])
    assert lines(log) == [
        "target is 1 (1 desired)",
        "target changed from 1 to 2 (2 desired)",
        "target is 2 (2 desired)",
        "cannot set the replica count now: the application lladav has no deployment engine yet",
        "target changed from 1 to 2 (2 desired)",
        "target is 2 (2 desired)",
        "target changed from 2 to 1 (1 desired)",
        "target is 1 (1 desired)",
        "stopped; Serve keeps its target",
    ]


@contextlib.contextmanager
def follower(api: KubernetesApi, dashboard: str) -> Iterator[Path]:
    """The command next to an API server; yields the path of its log."""
    log = api.account / "log"
    command = [
        sys.executable,
        "-m",
        "serve.follow_scale",
        "--wish",
        NAME,
        "--max",
        "2",
        "--seconds",
        "0.2",
    ]
    with listening(api.app(), tls=api.tls) as port, log.open("w") as output:
        with subprocess.Popen(
            [*command, "--account", str(api.account), "--dashboard", dashboard],
            env={**os.environ, **api.environment(port)},
            stderr=output,
        ) as process:
            try:
                yield log
            finally:
                process.terminate()
        assert process.returncode == 0


def lines(log: Path) -> list[str]:
    """The log lines, without time, level and name of the deployment."""
    prefix = re.compile(rf"^.{{23}} (INFO|WARNING) ({APP}/{ENGINE}: )?")
    return [prefix.sub("", line) for line in log.read_text().splitlines()]


def wait_for_engines(applications: str, replicas: int) -> dict[str, Any]:
    """Wait until exactly ``replicas`` engines exist and run; returns Ray's status of the deployment."""

    def engines() -> dict[str, Any] | None:
        engine = httpx.get(applications, timeout=30).json()["applications"][APP]["deployments"][ENGINE]
        return engine if running(engine) == len(engine["replicas"]) == replicas else None

    return wait_for(engines, pause=0.5)


def running(engine: dict[str, Any]) -> int:
    return sum(replica["state"] == "RUNNING" for replica in engine["replicas"])
