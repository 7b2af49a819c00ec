"""Metrics reach Prometheus, each once, from all nodes that answer."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import math
import re
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import ray
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families as parsed

from lladav.cluster import local_head
from serve.ops import metrics
from serve.ops.metrics import EXPOSED, INTERVALS, NAMES, EngineMetrics, IngressMetrics, exposition, merge
from tests.waiting import wait_for

MODEL = 'model="tiny"'
"""Label of the actor's metrics; servers of other tests in this process have metrics, too."""
"""Time for Ray to export metrics."""


def families(text: str) -> dict[str, Metric]:
    """Parse with Prometheus' own parser; each metric occurs once."""
    found = list(parsed(text))
    assert len({family.name for family in found}) == len(found)
    return {family.name: family for family in found}


def node(name: str, values: dict[str, int], kind: str = "gauge") -> str:
    """The metrics text of a node, with one value per metric."""
    lines = []
    for metric, value in values.items():
        lines += [f"# HELP {metric} It's a {{metric}} # HELP", f"# TYPE {metric} {kind}"]
        lines += [f'{metric}{{node="{name}",text="a \\"b\\" {{c}} # d\\n"}} {value}']
    return "\n".join(lines) + "\n# EOF\n"


class TestMerge:
    def test_a_metric_of_two_nodes_occurs_once(self) -> None:
        merged = merge([node("a", {"ray_lladav_rows": 3}), node("b", {"ray_lladav_rows": 5})], EXPOSED)
        assert merged.count("# HELP ray") == merged.count("# TYPE ray") == 1
        [family] = families(merged).values()
        assert {sample.labels["node"]: sample.value for sample in family.samples} == {"a": 3, "b": 5}

    def test_other_metrics_are_dropped(self) -> None:
        names = [
            "ray_lladav_rows",
            "ray_serve_x",
            "ray_node_cpu",
            "python_info",
            "xray_serve_x",
            "ray_served",
        ]
        merged = merge([node("a", dict.fromkeys(names, 1))], EXPOSED)
        assert set(families(merged)) == {"ray_lladav_rows", "ray_serve_x"}

    def test_a_histogram_keeps_its_parts(self) -> None:
        text = (
            "# HELP ray_serve_ms time\n# TYPE ray_serve_ms histogram\n"
            'ray_serve_ms_bucket{le="1.0"} 2\nray_serve_ms_bucket{le="+Inf"} 3\n'
            "ray_serve_ms_sum 4.5\nray_serve_ms_count 3\n"
        )
        family = families(merge([text, text], EXPOSED))["ray_serve_ms"]
        assert family.type == "histogram"
        assert [sample.name.removeprefix("ray_serve_ms_") for sample in family.samples] == [
            "bucket", "bucket", "sum", "count",
        ]  # fmt: skip

    @pytest.mark.parametrize("texts", [[], [""], ["\n\n# a comment\n#\n# HELP\n"]])
    def test_empty_texts(self, texts: list[str]) -> None:
        assert merge(texts, EXPOSED) == ""

    @given(
        st.lists(
            st.dictionaries(
                st.sampled_from(["ray_lladav_a", "ray_lladav_ab", "ray_serve_a", "ray_b"]), st.integers(0, 9)
            ),
            max_size=4,
        )
    )
    def test_every_value_of_every_node_is_kept(self, nodes: list[dict[str, int]]) -> None:
        merged = families(merge([node(str(n), values) for n, values in enumerate(nodes)], EXPOSED))
        found = {
            (sample.labels["node"], name): sample.value
            for name, family in merged.items()
            for sample in family.samples
        }
        assert found == {
            (str(n), name): value
            for n, values in enumerate(nodes)
            for name, value in values.items()
            if name != "ray_b"
        }


@contextlib.asynccontextmanager
async def server(answer: Any) -> AsyncIterator[str]:
    """A server that answers like a node's metrics port; yields its URL."""
    app = web.Application()
    app.router.add_get("/metrics", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    try:
        yield f"http://{host}:{port}/metrics"
    finally:
        await runner.cleanup()


async def valid(_: web.Request) -> web.Response:
    return web.Response(text=node("a", {"ray_lladav_rows": 3}))


async def failing(_: web.Request) -> web.Response:
    return web.Response(status=500, text=node("b", {"ray_lladav_rows": 3}))


async def garbled(_: web.Request) -> web.Response:
    return web.Response(body=b"\xff\xfe", content_type="text/plain", charset="utf-8")


async def hanging(_: web.Request) -> web.Response:
    await asyncio.Event().wait()
    return web.Response()


class TestExposition:
    def test_nodes_that_do_not_answer_are_skipped(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async def run() -> tuple[str, float]:
            async with server(valid) as a, server(failing) as b, server(garbled) as c, server(hanging) as d:
                urls = [a, b, c, d, "http://127.0.0.1:1/metrics"]
                monkeypatch.setattr(metrics, "_metric_urls", lambda: urls)
                begin = time.monotonic()
                return await exposition(2.0), time.monotonic() - begin

        text, seconds = asyncio.run(run())
        assert text.startswith("# 1 of 5 nodes answered\n")
        [family] = families(text).values()
        assert [sample.value for sample in family.samples] == [3]
        assert seconds < 30

    def test_without_ray_there_are_no_nodes_and_none_is_started(self) -> None:
        assert not ray.is_initialized()
        assert asyncio.run(exposition(1.0)) == "# 0 of 0 nodes answered\n"
        assert not ray.is_initialized()

    @pytest.mark.parametrize(("address", "host"), [("10.0.0.1", "10.0.0.1"), ("fd00::1", "[fd00::1]")])
    def test_only_nodes_that_are_alive_are_queried(self, address: str, host: str) -> None:
        alive = {"Alive": True, "NodeManagerAddress": address, "MetricsExportPort": 8080}
        assert metrics.urls_of([alive, {**alive, "Alive": False}]) == [f"http://{host}:8080/metrics"]


def test_small_refresh_intervals_are_the_middle_of_a_bucket() -> None:
    """Ray exports a histogram's values as the middle of their buckets, so the mean interval is exact."""
    middles = [(low + high) / 2 for low, high in itertools.pairwise(INTERVALS)]
    assert middles[:16] == list(range(1, 17))
    assert all(math.isclose(low + 0.5, int(low) + 1) for low in INTERVALS)


def test_counting_needs_no_ray() -> None:
    ingress, engine = IngressMetrics("m"), EngineMetrics("m")
    count(ingress, engine)
    assert not ray.is_initialized()


def count(ingress: IngressMetrics, engine: EngineMetrics) -> None:
    """Call every method; zero increments count nothing."""
    ingress.observe_request("/v1/completions", 200, 0.3)
    ingress.observe_request("/v1/completions", 429, 0.01)
    ingress.observe_request("/health", 200, 0.01)
    ingress.first_token(0.2)
    ingress.tokens(7)
    ingress.tokens(0)
    ingress.rejected("rate_limit_exceeded")
    engine.step(0.01, refreshes=2, cached=0)
    engine.step(0.02, refreshes=0, cached=3)
    engine.failed("not_finite")
    engine.admitted(0.1, 4)
    engine.admitted(0.1, 16)
    engine.gauges(3, 8, 1, 0.5)
    engine.image_cache(1, 0)
    engine.image_cache(0, 2)


@ray.remote(num_cpus=0)
class Counting:
    """Counts metrics and collects them, as replicas do."""

    def count(self) -> None:
        self.metrics = IngressMetrics("tiny"), EngineMetrics("tiny")
        count(*self.metrics)

    async def exposition(self) -> str:
        return await exposition(5.0)


@pytest.fixture(scope="module")
def shown() -> dict[str, Metric]:
    """The exported metrics of an actor in a private Ray, which has ended before other tests."""
    with local_head(cpus=1, variables={"RAY_metrics_report_interval_ms": "1000"}) as head:
        ray.init(address=head.address, log_to_driver=False, logging_level=logging.WARNING)
        try:
            return families(text_with_everything())
        finally:
            ray.shutdown()


def text_with_everything() -> str:
    actor: Any = Counting.remote()
    ray.get(actor.count.remote())

    def complete() -> str | None:
        text: Any = ray.get(actor.exposition.remote())
        return text if all(re.search(rf"\nray_{name}[^\n]*{MODEL}", text) for name in NAMES) else None

    return wait_for(complete, "the export of all metrics", pause=0.5)


@pytest.mark.ray
@pytest.mark.slow
class TestRay:
    def test_exactly_our_metrics_are_exported(self, shown: dict[str, Metric]) -> None:
        assert {name.removesuffix("_total") for name in NAMES} == {
            name.removeprefix("ray_") for name in shown if name.startswith("ray_lladav_")
        }
        assert all(name.startswith(EXPOSED) for name in shown)

    @pytest.mark.parametrize(
        ("sample", "labels", "value"),
        [
            ("lladav_requests_total", {"endpoint": "/v1/completions", "status": "200"}, 1),
            ("lladav_requests_total", {"endpoint": "/v1/completions", "status": "429"}, 1),
            ("lladav_request_seconds_count", {}, 1),
            ("lladav_request_seconds_bucket", {"le": "0.5"}, 1),
            ("lladav_time_to_first_token_seconds_count", {}, 1),
            ("lladav_tokens_total", {}, 7),
            ("lladav_rejections_total", {"reason": "rate_limit_exceeded"}, 1),
            ("lladav_step_seconds_count", {}, 2),
            ("lladav_forwards_total", {"kind": "refresh"}, 2),
            ("lladav_forwards_total", {"kind": "cached"}, 3),
            ("lladav_queue_seconds_count", {}, 2),
            ("lladav_refresh_interval_sum", {}, 20),
            ("lladav_refresh_interval_count", {}, 2),
            ("lladav_image_cache_total", {"result": "hit"}, 1),
            ("lladav_image_cache_total", {"result": "miss"}, 2),
            ("lladav_rows_used", {}, 3),
            ("lladav_rows", {}, 8),
            ("lladav_waiting", {}, 1),
            ("lladav_oldest_waiting_seconds", {}, 0.5),
        ],
    )
    def test_values_are_exported(
        self, shown: dict[str, Metric], sample: str, labels: dict[str, str], value: float
    ) -> None:
        wanted = {"model": "tiny", **labels}
        found = [
            each.value
            for family in shown.values()
            for each in family.samples
            if each.name == f"ray_{sample}" and wanted.items() <= each.labels.items()
        ]
        assert found == [value]
