"""Latency and throughput of a running server against concurrency and refresh interval, by GuideLLM.

    pip install guidellm          # in an environment of its own: it brings another torch
    make serve                    # in another terminal
    python tests/bench/bench_load.py --guidellm PATH/TO/guidellm --out load.png

GuideLLM sends streamed chat completions that fill ``--tokens`` tokens, so many at a time; it measures, this
script varies the dial and draws.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:1] = [str(ROOT), str(ROOT / "platform")]

import matplotlib as mpl  # noqa: E402 - the path comes first

from tests.bench.reporting import report, table  # noqa: E402

mpl.use("Agg")
from matplotlib import pyplot  # noqa: E402

QUESTIONS = (
    "Which digits are in the picture?",
    "Add 3 and 4. Think step by step.",
    "How many digits are there?",
    "Which is larger, 25 or 52?",
)


@dataclass(frozen=True)
class Point:
    """A load, and what came of it; times in seconds."""

    interval: int
    streams: int
    tokens_per_second: float
    first_token: float
    latency: float
    slow_latency: float
    """The 95th percentile; ``latency`` is the median."""
    failed: int


def main() -> None:
    arguments = _parser().parse_args()
    if shutil.which(arguments.guidellm) is None:
        print(f"skipped: {arguments.guidellm}: no such command; pip install guidellm in a venv, and name it")
        return
    points = [point for interval in arguments.intervals for point in measure(interval, arguments)]
    for point in points:
        report("load", point.tokens_per_second, "tokens/s", "concurrency and interval", **vars(point))
    header = ("interval / streams", "tokens/s", "first token p50", "latency p50", "p95", "failed")
    table(header, [_row(point) for point in points])
    if arguments.out:
        draw(points, arguments.out)


def measure(interval: int, arguments: argparse.Namespace) -> list[Point]:
    """GuideLLM's figures at each concurrency."""
    extras = {"refresh_interval": interval, "ignore_eos": True, "temperature": 1.0}
    backend = {
        "kind": "openai_http",
        "target": arguments.address,
        "model": arguments.model,
        "max_tokens": arguments.tokens,
        "extras": {"body": extras},
    }
    with tempfile.TemporaryDirectory() as folder:
        prompts, out = Path(folder, "prompts.jsonl"), Path(folder, "result.json")
        prompts.write_text("\n".join(json.dumps({"prompt": question}) for question in QUESTIONS * 64))
        command = [arguments.guidellm, "run", f"--backend={json.dumps(backend)}", "--profile=kind=concurrent"]
        command += ["--override", "profile.streams", ",".join(map(str, arguments.streams))]
        command += [f"--constraint=kind=max_duration,seconds={arguments.seconds}"]
        command += [f"--data=kind=json_file,path={prompts}", f"--output=kind=json,path={out}"]
        subprocess.run([*command, "--disable-console-outputs"], check=True, stdout=subprocess.DEVNULL)
        return [_point(interval, each) for each in json.loads(out.read_text())["benchmarks"]]


def _point(interval: int, benchmark: dict[str, Any]) -> Point:
    metrics = benchmark["metrics"]
    latency = metrics["request_latency"]["successful"]
    return Point(
        interval,
        benchmark["config"]["strategy"]["streams"],
        metrics["output_tokens_per_second"]["total"]["mean"],
        metrics["time_to_first_token_ms"]["successful"]["median"] / 1000,
        latency["median"],
        latency["percentiles"]["p95"],
        metrics["request_totals"]["errored"],
    )


def _row(point: Point) -> tuple[str, ...]:
    times = (point.first_token, point.latency, point.slow_latency)
    return (
        f"{point.interval} / {point.streams}",
        f"{point.tokens_per_second:.0f}",
        *(f"{each:.2f} s" for each in times),
        str(point.failed),
    )


def draw(points: Sequence[Point], out: Path) -> None:
    """Throughput and latency against concurrency, a line for each interval."""
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for interval in dict.fromkeys(point.interval for point in points):
        line = [point for point in points if point.interval == interval]
        streams = [point.streams for point in line]
        left.plot(streams, [point.tokens_per_second for point in line], marker="o", label=f"r = {interval}")
        [drawn] = right.plot(streams, [point.latency for point in line], marker="o", label=f"r = {interval}")
        right.plot(streams, [point.slow_latency for point in line], color=drawn.get_color(), linestyle=":")
    for axes, title in ((left, "tokens/s"), (right, "seconds of an answer: median, dotted 95 %")):
        axes.set_title(title)
        axes.set_xlabel("requests at a time")
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(out, dpi=120)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--guidellm", default="guidellm", help="the command")
    parser.add_argument("--address", default="http://127.0.0.1:8000")
    parser.add_argument("--model", default="llada-v-tiny")
    parser.add_argument("--intervals", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 4, 16, 32])
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--out", type=Path, help="where to draw a picture")
    return parser


if __name__ == "__main__":
    main()
