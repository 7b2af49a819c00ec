"""A Serve config file, deployed as ``serve deploy`` does: settings, overrides, traces of requests."""

from __future__ import annotations

import copy
import json
import secrets
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
import yaml
from ray.serve._private.constants import DEFAULT_TRACING_EXPORTER_IMPORT_PATH

from lladav.cluster import Head, local_head
from serve.ops.autoscaling import autoscaling_config
from serve.ops.config_check import check
from tests.serve.clusters import APP, ask_all, put, replicas_of
from tests.waiting import wait_for

pytestmark = [pytest.mark.ray, pytest.mark.slow]
OVERRIDES = [
    {"name": "engine", "max_queued_requests": 7, "ray_actor_options": {"num_cpus": 0.5}},
    {"name": "ingress", "num_replicas": 2},
]


@dataclass(frozen=True)
class Deployed:
    """An application that was deployed from a file."""

    head: Head
    address: str
    status: dict[str, Any]

    def options_of(self, deployment: str) -> dict[str, Any]:
        return self.status["deployments"][deployment]["deployment_config"]


@pytest.fixture(scope="module")
def config(root: Path, model_folder: Path) -> dict[str, Any]:
    """The documented file with a test model, a free port and overrides."""
    config = yaml.safe_load((root / "docs/serve_config.yaml").read_text())
    with socket.create_server(("127.0.0.1", 0)) as probe:
        config["http_options"]["port"] = probe.getsockname()[1]
    config["applications"][0]["args"]["model"] = str(model_folder)
    config["applications"][0]["deployments"] = OVERRIDES
    return config


@pytest.fixture(scope="module")
def deployed(config: dict[str, Any]) -> Iterator[Deployed]:
    variables = {
        "RAY_SERVE_TRACING_EXPORTER_IMPORT_PATH": DEFAULT_TRACING_EXPORTER_IMPORT_PATH,
        "RAY_SERVE_TRACING_SAMPLING_RATIO": "1.0",
    }
    with local_head(cpus=8, variables=variables) as head:
        applications = f"{head.dashboard}/api/serve/applications/"
        port = config["http_options"]["port"]
        yield Deployed(head, f"http://127.0.0.1:{port}", put(applications, config))
        httpx.delete(applications, timeout=60).raise_for_status()


def test_the_config_is_valid(config: dict[str, Any]) -> None:
    check(config)


def test_its_settings_and_overrides_apply(deployed: Deployed) -> None:
    engine, ingress = deployed.options_of("engine"), deployed.options_of("ingress")
    assert engine["autoscaling_config"]["max_replicas"] == 2
    assert engine["autoscaling_config"]["policy"]["policy_function"] == "serve.ops.autoscaling:EnginePolicy"
    assert engine["max_queued_requests"] == 7
    assert engine["ray_actor_options"]["num_cpus"] == 0.5
    assert ingress["num_replicas"] == 2
    (model,) = httpx.get(f"{deployed.address}/v1/models", timeout=30).json()["data"]
    assert model["max_tokens"] == 256


@pytest.mark.parametrize(("stream", "called"), [(False, "answer"), (True, "events")])
def test_a_request_is_one_trace_from_proxy_to_engine(deployed: Deployed, stream: bool, called: str) -> None:
    spans = spans_of_a_request(deployed, stream=stream)
    assert len({span["context"]["trace_id"] for span in spans}) == 1
    assert chain(spans) == [
        "proxy_http_request ingress POST /v1/chat/completions",
        "route_to_replica ingress __call__",
        "replica_handle_request ingress __call__",
        f"route_to_replica engine {called}",
        f"replica_handle_request engine {called}",
    ]


def test_a_trace_that_the_client_started_continues(deployed: Deployed) -> None:
    trace = secrets.token_hex(16)
    spans = spans_of_a_request(deployed, traceparent=f"00-{trace}-{secrets.token_hex(8)}-01")
    assert {span["context"]["trace_id"] for span in spans} == {f"0x{trace}"}


def spans_of_a_request(deployed: Deployed, stream: bool = False, **headers: str) -> list[dict[str, Any]]:
    """Send a request and wait for the spans of its five parts."""
    name = secrets.token_hex(8)
    (outcome,) = ask_all(deployed.address, 1, headers={"X-Request-ID": name, **headers}, stream=stream)
    assert outcome.ok

    def spans() -> list[dict[str, Any]]:
        return [span for span in written_spans(deployed) if span["attributes"]["request_id"] == name]

    wait_for(lambda: len(spans()) == 5, spans, pause=0.2)
    return spans()


def written_spans(deployed: Deployed) -> Iterator[dict[str, Any]]:
    """Spans that Ray's own exporter has written so far: indented JSON objects, one after another."""
    for file in deployed.head.folder.glob("session_latest/logs/serve/spans/*"):
        *whole, _ = file.read_text().split("\n}\n")
        yield from (json.loads(f"{text}}}") for text in whole)


def chain(spans: list[dict[str, Any]]) -> list[str]:
    """Names of spans from the first to the last, each the parent of the next."""
    below = {span["parent_id"]: span for span in spans}
    ids = {span["context"]["span_id"] for span in spans}
    (span,) = [span for span in spans if span["parent_id"] not in ids]
    names = [span["name"]]
    while span := below.get(span["context"]["span_id"]):
        names.append(span["name"])
    return names


@pytest.mark.proof
@pytest.mark.redeploys
@pytest.mark.usefixtures("takes_minutes")
def test_removed_replicas_finish_their_requests(deployed: Deployed, config: dict[str, Any]) -> None:
    applications = f"{deployed.head.dashboard}/api/serve/applications/"
    assert replicas_of(put(applications, with_engines(config, 2))) == {"engine": 2, "ingress": 2}
    started = threading.Semaphore(0)
    with ThreadPoolExecutor(1) as pool:
        long = {"max_tokens": 256, "ignore_eos": True, "stream": True, "begun": started.release}
        asked = pool.submit(ask_all, deployed.address, 12, **long)
        assert all(started.acquire(timeout=60) for _ in range(12))
        fewer = with_engines(config, 1)
        fewer["applications"][0]["deployments"][1]["num_replicas"] = 1
        httpx.put(applications, json=fewer, timeout=60).raise_for_status()
        assert not asked.done()
        assert [outcome for outcome in asked.result() if not outcome.ok] == []
    assert replicas_of(put(applications, fewer)) == {"engine": 1, "ingress": 1}


@pytest.mark.redeploys
def test_a_missing_file_of_keys_is_reported(deployed: Deployed, config: dict[str, Any]) -> None:
    applications = f"{deployed.head.dashboard}/api/serve/applications/"
    changed = copy.deepcopy(config)
    changed["applications"][0]["args"] |= {"auth": "keys", "keys_file": "/none.yaml"}
    httpx.put(applications, json=changed, timeout=60).raise_for_status()
    expected = "/none.yaml: cannot be read (No such file or directory)"

    def status() -> str:
        return str(httpx.get(applications, timeout=30).json()["applications"][APP])

    wait_for(lambda: expected in status(), status, pause=0.5)


def with_engines(config: dict[str, Any], count: int) -> dict[str, Any]:
    """The config with ``count`` engines, and room for all requests in the queue of one ingress replica."""
    changed = copy.deepcopy(config)
    engine = changed["applications"][0]["deployments"][0]
    engine |= {"autoscaling_config": autoscaling_config(count, count, {}), "max_queued_requests": 32}
    return changed
