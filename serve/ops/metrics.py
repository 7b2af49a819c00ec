"""The metrics of the server, and their Prometheus text, collected from all Ray nodes.

Ray collects the metrics of all its processes, adds the prefix ``ray_`` to their names, and exports them at a
port of each node about ten seconds later. Of a histogram it passes on only the bucket counts and treats each
value as the middle of its bucket, so the precision of a sum depends on the bucket widths.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

import aiohttp
import ray
from ray.util.metrics import Counter, Gauge, Histogram

from serve.concurrency import ThreadOffloader
from serve.errors import ApiError

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
STEP_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
INTERVALS = (*(n + 0.5 for n in range(17)), 20.5, 24.5, 28.5, 32.5, 40.5, 48.5, 56.5, 64.5, 128.5)
"""Integers up to 16 are the middle of their own bucket; the middle of others is the mean of its integers."""

HISTOGRAMS = {
    "lladav_time_to_first_token_seconds": ("Time from the request to the first final token", SECONDS),
    "lladav_request_seconds": ("Time from the request to the end of its answer", SECONDS),
    "lladav_queue_seconds": ("Time from the request to its first row in an engine", SECONDS),
    "lladav_refresh_interval": ("Refresh intervals of requests", INTERVALS),
    "lladav_step_seconds": ("Duration of an engine step", STEP_SECONDS),
}
COUNTERS = {
    "lladav_requests_total": ("Finished requests", ("endpoint", "status")),
    "lladav_tokens_total": ("Tokens of answers", ()),
    "lladav_forwards_total": ("Row forwards, with refreshed or with cached keys and values", ("kind",)),
    "lladav_rejections_total": ("Rejected requests", ("reason",)),
    "lladav_failures_total": ("Answers that failed in an engine", ("reason",)),
    "lladav_image_cache_total": ("Lookups of image features", ("result",)),
}
GAUGES = {
    "lladav_rows_used": "Rows that are decoding an answer",
    "lladav_rows": "Rows in total",
    "lladav_waiting": "Answers waiting for a row",
    "lladav_oldest_waiting_seconds": "Age of the oldest waiting answer",
}
NAMES = frozenset({*HISTOGRAMS, *COUNTERS, *GAUGES})
"""All metrics, without Ray's prefix. Each has the label ``model`` in addition to its own labels."""

TIMED_ENDPOINTS = {"/v1/chat/completions", "/v1/completions", "/v1/responses"}
EXPOSED = ("ray_lladav_", "ray_serve_")
"""Name prefixes of the metrics in ``exposition``."""
_ASIDE = ThreadOffloader("metrics")
"""Thread for listing nodes, a blocking call to GCS, and for merging, which is slow on large clusters."""
ABOUT = re.compile(r"# (HELP|TYPE) (\S+)")


class IngressMetrics:
    """Metrics of an ingress replica."""

    def __init__(self, model: str) -> None:
        self._requests = _counter("lladav_requests_total", model)
        self._seconds = _histogram("lladav_request_seconds", model)
        self._first_token = _histogram("lladav_time_to_first_token_seconds", model)
        self._tokens = _counter("lladav_tokens_total", model)
        self._rejections = _counter("lladav_rejections_total", model)

    def observe_request(self, endpoint: str, status: int, seconds: float) -> None:
        """Count a finished request.

        ``endpoint`` is a route, never the raw path of a client: each label value is a time series. Only
        successful answers are timed; probes and rejections would distort the latencies.
        """
        self._requests.inc(tags={"endpoint": endpoint, "status": str(status)})
        if endpoint in TIMED_ENDPOINTS and status == HTTPStatus.OK:
            self._seconds.observe(seconds)

    def first_token(self, seconds: float) -> None:
        """Observe the time from a request to its first final token."""
        self._first_token.observe(seconds)

    def tokens(self, n: int) -> None:
        """Count the tokens of an answer."""
        _add(self._tokens, n)

    def rejected(self, reason: str) -> None:
        """Count a rejected request."""
        self._rejections.inc(tags={"reason": reason})


class EngineMetrics:
    """Metrics of an engine replica."""

    def __init__(self, model: str) -> None:
        self._queue_seconds = _histogram("lladav_queue_seconds", model)
        self._interval = _histogram("lladav_refresh_interval", model)
        self._step_seconds = _histogram("lladav_step_seconds", model)
        self._forwards = _counter("lladav_forwards_total", model)
        self._failures = _counter("lladav_failures_total", model)
        self._image_cache = _counter("lladav_image_cache_total", model)
        self._gauges = [_gauge(name, model) for name in GAUGES]

    def step(self, seconds: float, refreshes: int, cached: int) -> None:
        """Observe a step: its duration, and how many rows were refreshed or used cached keys and values."""
        self._step_seconds.observe(seconds)
        _add(self._forwards, refreshes, kind="refresh")
        _add(self._forwards, cached, kind="cached")

    def admitted(self, queue_seconds: float, interval: int | None) -> None:
        """Observe a request that got its first row: its time in the queue and its interval, if any."""
        self._queue_seconds.observe(queue_seconds)
        if interval is not None:
            self._interval.observe(interval)

    def gauges(self, rows_used: int, rows: int, waiting: int, oldest_waiting_seconds: float) -> None:
        """Set the gauges. Call it also when idle: Ray drops gauges that are not set for 20 seconds."""
        values = (rows_used, rows, waiting, oldest_waiting_seconds)
        for gauge, value in zip(self._gauges, values, strict=True):
            gauge.set(value)

    def failed(self, reason: str) -> None:
        """Count an answer that failed; ``reason`` is prompt, forward or not_finite."""
        self._failures.inc(tags={"reason": reason})

    def image_cache(self, hits: int, misses: int) -> None:
        """Count lookups of image features."""
        _add(self._image_cache, hits, result="hit")
        _add(self._image_cache, misses, result="miss")


def _histogram(name: str, model: str) -> Histogram:
    text, bounds = HISTOGRAMS[name]
    return Histogram(name, text, list(bounds), ("model",)).set_default_tags({"model": model})


def _counter(name: str, model: str) -> Counter:
    text, labels = COUNTERS[name]
    return Counter(name, text, ("model", *labels)).set_default_tags({"model": model})


def _gauge(name: str, model: str) -> Gauge:
    return Gauge(name, GAUGES[name], ("model",)).set_default_tags({"model": model})


def _add(counter: Counter, n: int, **labels: str) -> None:
    """Ray refuses increments of 0."""
    if n > 0:
        counter.inc(n, labels)


async def exposition(timeout: float) -> str:
    """Prometheus text of our metrics and Ray Serve's, from all nodes that answer within ``timeout`` seconds.

    Its first line, a comment, says how many nodes answered. Without a connection to Ray there are no nodes.
    Raises ``ApiError`` if Ray does not list its nodes in time.
    """
    try:
        urls = await asyncio.wait_for(_ASIDE(_metric_urls), timeout)
    except TimeoutError:
        message = "Ray does not list its nodes at the moment; try again"
        raise ApiError(503, message, code="metrics_unavailable", retry_after=timeout) from None
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=timeout)) as session:
        texts = await asyncio.gather(*(_text_of(session, url) for url in urls))
    answered = [text for text in texts if text is not None]
    comment = f"# {len(answered)} of {len(urls)} nodes answered\n"
    return comment + await _ASIDE(merge, answered, EXPOSED)


def _metric_urls() -> list[str]:
    if not ray.is_initialized():  # ray.nodes() would start a Ray
        return []
    return urls_of(ray.nodes())


def urls_of(nodes: Iterable[Mapping[str, Any]]) -> list[str]:
    """The metrics URLs of the nodes that are alive."""
    return [
        f"http://{_host(node['NodeManagerAddress'])}:{node['MetricsExportPort']}/metrics"
        for node in nodes
        if node["Alive"]
    ]


def _host(address: str) -> str:
    return f"[{address}]" if ":" in address else address


async def _text_of(session: aiohttp.ClientSession, url: str) -> str | None:
    try:
        async with session.get(url) as response:
            response.raise_for_status()
            return await response.text()
    except (aiohttp.ClientError, TimeoutError, UnicodeDecodeError):
        return None


def merge(texts: Iterable[str], prefixes: tuple[str, ...]) -> str:
    """Merge Prometheus texts: each metric with one of the prefixes once, with the series of all texts.

    Of duplicate lines the first is kept.
    """
    metrics: dict[str, dict[str, str]] = {}
    for text in texts:
        name = ""
        for line in text.split("\n"):
            if about := ABOUT.match(line):
                name, key = about[2], about[1]
            elif not line or line.startswith("#"):
                continue
            else:
                key = line.rpartition(" ")[0]
            if name.startswith(prefixes):
                metrics.setdefault(name, {}).setdefault(key, line)
    # HELP and TYPE have to stand above all samples, also if only a later text has them.
    ordered = (sorted(lines.values(), key=lambda line: line[0] != "#") for lines in metrics.values())
    return "".join(f"{line}\n" for lines in ordered for line in lines)
