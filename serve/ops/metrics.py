"""What is counted and timed, and Prometheus' text of it from all of Ray's nodes.

Ray collects metrics of all its processes, puts ``ray_`` before their names, and shows them at a port of each
node about ten seconds later. Of a histogram it passes the counts of buckets on and takes each value for the
middle of its bucket: a sum is as exact as the buckets are fine.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
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
"""Whole numbers up to 16 are the middle of a bucket of their own; the mean of larger ones is."""

HISTOGRAMS = {
    "lladav_time_to_first_token_seconds": ("From a request to the first token that cannot change", SECONDS),
    "lladav_request_seconds": ("From a request to the end of its answer", SECONDS),
    "lladav_queue_seconds": ("From a request to its first row of an engine", SECONDS),
    "lladav_refresh_interval": ("Refresh intervals that requests got", INTERVALS),
    "lladav_step_seconds": ("Steps of an engine", STEP_SECONDS),
}
COUNTERS = {
    "lladav_requests_total": ("Requests that ended", ("endpoint", "status")),
    "lladav_tokens_total": ("Tokens of answers", ()),
    "lladav_forwards_total": ("Forwards of rows, by whether keys and values were refreshed", ("kind",)),
    "lladav_rejections_total": ("Requests that were refused", ("reason",)),
    "lladav_failures_total": ("Answers that an engine could not finish", ("reason",)),
    "lladav_image_cache_total": ("Images whose features were looked up", ("result",)),
}
GAUGES = {
    "lladav_rows_used": "Rows that decode an answer",
    "lladav_rows": "Rows that there are",
    "lladav_waiting": "Answers that wait for a row",
    "lladav_oldest_waiting_seconds": "For how long the oldest of them has",
}
NAMES = frozenset({*HISTOGRAMS, *COUNTERS, *GAUGES})
"""All of them, without Ray's prefix; each has the label ``model`` besides its own."""

ANSWERING = {"/v1/chat/completions", "/v1/completions"}
"""Endpoints whose requests are timed."""
EXPOSED = ("ray_lladav_", "ray_serve_")
"""Beginnings of the names that ``exposition`` shows."""
_ASIDE = ThreadOffloader("metrics")
"""Lists nodes, which asks Ray's control service, and merges texts, which takes long on large clusters."""
ABOUT = re.compile(r"# (?:HELP|TYPE) (\S+)")


class IngressMetrics:
    """What an ingress replica counts."""

    def __init__(self, model: str) -> None:
        self._requests = _counter("lladav_requests_total", model)
        self._seconds = _histogram("lladav_request_seconds", model)
        self._first_token = _histogram("lladav_time_to_first_token_seconds", model)
        self._tokens = _counter("lladav_tokens_total", model)
        self._rejections = _counter("lladav_rejections_total", model)

    def observe_request(self, endpoint: str, status: int, seconds: float) -> None:
        """A request ended; ``endpoint`` is one of few, never a path as a client wrote it.

        Probes and refusals take no time: only those of answers are kept.
        """
        self._requests.inc(tags={"endpoint": endpoint, "status": str(status)})
        if endpoint in ANSWERING and status == HTTPStatus.OK:
            self._seconds.observe(seconds)

    def first_token(self, seconds: float) -> None:
        """An answer has begun, so long after its request came."""
        self._first_token.observe(seconds)

    def tokens(self, n: int) -> None:
        """An answer of so many tokens was given."""
        _add(self._tokens, n)

    def rejected(self, reason: str) -> None:
        """A request was refused."""
        self._rejections.inc(tags={"reason": reason})


class EngineMetrics:
    """What an engine replica counts."""

    def __init__(self, model: str) -> None:
        self._queue_seconds = _histogram("lladav_queue_seconds", model)
        self._interval = _histogram("lladav_refresh_interval", model)
        self._step_seconds = _histogram("lladav_step_seconds", model)
        self._forwards = _counter("lladav_forwards_total", model)
        self._failures = _counter("lladav_failures_total", model)
        self._image_cache = _counter("lladav_image_cache_total", model)
        self._gauges = [_gauge(name, model) for name in GAUGES]

    def step(self, seconds: float, refreshes: int, cached: int) -> None:
        """A step was made, which forwarded so many rows in full and so many with cached keys and values."""
        self._step_seconds.observe(seconds)
        _add(self._forwards, refreshes, kind="refresh")
        _add(self._forwards, cached, kind="cached")

    def admitted(self, queue_seconds: float, interval: int) -> None:
        """A request got its first row, and a refresh interval."""
        self._queue_seconds.observe(queue_seconds)
        self._interval.observe(interval)

    def gauges(self, rows_used: int, rows: int, waiting: int, oldest_waiting_seconds: float) -> None:
        """How full the engine is now; to be told when idle, too, as Ray forgets what is 20 seconds old."""
        values = (rows_used, rows, waiting, oldest_waiting_seconds)
        for gauge, value in zip(self._gauges, values, strict=True):
            gauge.set(value)

    def failed(self, reason: str) -> None:
        """An answer ended with an error: prompt, forward or not_finite."""
        self._failures.inc(tags={"reason": reason})

    def image_cache(self, hits: int, misses: int) -> None:
        """So many images had features already, and so many had not."""
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
    """Ray refuses to add nothing, and less."""
    if n > 0:
        counter.inc(n, labels)


async def exposition(timeout: float) -> str:
    """Our metrics and Ray Serve's, of all nodes that answer in ``timeout`` seconds, as Prometheus reads them.

    A comment says how many did. Without a connection to Ray there are no nodes. Raises ``ApiError`` where Ray
    does not list its nodes in time.
    """
    try:
        urls = await asyncio.wait_for(_ASIDE(_metric_urls), timeout)
    except TimeoutError:
        message = "Ray does not list its nodes now; ask again"
        raise ApiError(503, message, code="metrics_unavailable", retry_after=timeout) from None
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=timeout)) as session:
        texts = await asyncio.gather(*(_text_of(session, url) for url in urls))
    answered = [text for text in texts if text is not None]
    comment = f"# {len(answered)} of {len(urls)} nodes answered\n"
    return comment + await _ASIDE(merge, answered, EXPOSED)


def _metric_urls() -> list[str]:
    if not ray.is_initialized():  # asking for nodes would start a Ray
        return []
    return urls_of(ray.nodes())


def urls_of(nodes: Iterable[Mapping[str, Any]]) -> list[str]:
    """Where those of Ray's nodes that are alive expose their metrics."""
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


@dataclass
class _Family:
    """A metric: the lines about it, and the values of its series."""

    about: dict[str, str] = field(default_factory=dict)
    samples: dict[str, str] = field(default_factory=dict)


def merge(texts: Iterable[str], beginnings: tuple[str, ...]) -> str:
    """One text of several: each metric that begins so stands once, with the series of all."""
    families: dict[str, _Family] = {}
    for text in texts:
        for name, line in _lines(text):
            if name.startswith(beginnings):
                _put(families.setdefault(name, _Family()), line)
    lines = [line for each in families.values() for line in (*each.about.values(), *each.samples.values())]
    return "".join(f"{line}\n" for line in lines)


def _lines(text: str) -> Iterator[tuple[str, str]]:
    """Lines and the metrics that they belong to: that of the ``HELP`` and ``TYPE`` above them."""
    name = ""
    for line in text.split("\n"):
        if about := ABOUT.match(line):
            name = about[1]
        elif not line or line.startswith("#"):
            continue
        yield name, line


def _put(family: _Family, line: str) -> None:
    """Keep the first of what is said twice."""
    if line.startswith("#"):
        family.about.setdefault(line.split(" ", 2)[1], line)
    else:
        family.samples.setdefault(line.rpartition(" ")[0], line)
