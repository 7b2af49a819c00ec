"""Draws the panels of the Grafana dashboard from the metrics of a running server.

    apt-get install prometheus    # or any other build of it
    make serve                    # in another terminal
    python tests/bench/draw_dashboard.py --seconds 240 --out docs/serving_dashboard.png

It starts a Prometheus that scrapes the server, sends requests of several kinds, first few and then many at a
time, and draws what Prometheus answers to each query of the dashboard.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2 as httpx
import matplotlib as mpl
import numpy as np

mpl.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes

ROOT = Path(__file__).resolve().parents[2]
BOARD = ROOT / "k8s" / "components" / "monitoring" / "serving.json"
IMAGE = ROOT / "serve" / "playground" / "static" / "examples" / "digits.png"
SERVER, PROMETHEUS = "127.0.0.1:8000", "127.0.0.1:9099"
SCRAPE_SECONDS = 15
"""As in podmonitor.yaml."""
VARIABLES = {"$__rate_interval": f"{4 * SCRAPE_SECONDS}s", "$model": ".*", "$deployment": ".*"}
CONFIG = f"""
global: {{scrape_interval: {SCRAPE_SECONDS}s}}
scrape_configs:
- job_name: serve
  static_configs: [{{targets: ["{SERVER}"]}}]
"""
CLIENTS = (3, 32)
"""Requests at a time, in the first and in the second half."""
COLUMNS = 4


def main() -> None:
    arguments = _parser().parse_args()
    if shutil.which(arguments.prometheus) is None:
        print(f"skipped: {arguments.prometheus}: no such command")
        return
    with tempfile.TemporaryDirectory() as folder, _prometheus(arguments.prometheus, Path(folder)):
        start = time.time()
        for clients in CLIENTS:
            _load(clients, arguments.seconds / len(CLIENTS))
        time.sleep(3 * SCRAPE_SECONDS)  # metrics lag behind requests
        _draw(start, time.time(), arguments.out)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prometheus", default="prometheus", help="command that starts Prometheus")
    parser.add_argument("--seconds", type=float, default=240, help="seconds of load")
    parser.add_argument("--out", type=Path, default=Path("dashboard.png"), help="the picture")
    return parser


@contextlib.contextmanager
def _prometheus(command: str, folder: Path) -> Iterator[None]:
    """A Prometheus that scrapes the server until the block ends."""
    config = folder / "prometheus.yml"
    config.write_text(CONFIG)
    options = [
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={PROMETHEUS}",
    ]
    process = subprocess.Popen([command, *options, "--log.level=warn"])
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def _load(clients: int, seconds: float) -> None:
    """Send requests, ``clients`` at a time."""
    until = time.monotonic() + seconds
    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(_client, range(clients), [until] * clients))


def _client(number: int, until: float) -> None:
    """Send one request after another."""
    draw = random.Random(number)
    with httpx.Client(base_url=f"http://{SERVER}", timeout=120) as client:
        while time.monotonic() < until:
            client.post("/v1/chat/completions", json=_body(draw))


def _body(draw: random.Random) -> dict[str, Any]:
    """A request; one in 40 has an invalid field, one in 40 a deadline that it misses."""
    image = {
        "type": "image_url",
        "image_url": {"url": f"data:image/png;base64,{base64.b64encode(IMAGE.read_bytes()).decode()}"},
    }
    text = {
        "type": "text",
        "text": f"Add {draw.randint(1, 99)} and {draw.randint(1, 99)}. Think step by step.",
    }
    interval = draw.choice([1, 4, 16, {"min": 1, "max": 32}])
    wrong = draw.choice([{"max_tokens": 0}, {"deadline_ms": 1}, *[{}] * 38])
    return {
        "model": "llada-v-tiny",
        "messages": [{"role": "user", "content": [image, text] if draw.random() < 0.5 else [text]}],
        "refresh_interval": interval,
        "stream": draw.random() < 0.5,
        **wrong,
    }


def _draw(start: float, end: float, out: Path) -> None:
    """Draw all panels, in the order of the dashboard."""
    panels = [
        panel for panel in json.loads(BOARD.read_text(encoding="utf-8"))["panels"] if panel.get("targets")
    ]
    rows = -(-len(panels) // COLUMNS)
    figure, axes = pyplot.subplots(
        rows, COLUMNS, figsize=(4 * COLUMNS, 2.6 * rows), layout="constrained", squeeze=False
    )
    for axis in axes.flat:
        axis.set_visible(False)
    for axis, panel in zip(axes.flat, panels, strict=False):
        axis.set_visible(True)
        _panel(axis, panel, start, end)
    figure.savefig(out, dpi=70)
    print(out)


def _panel(axis: Axes, panel: dict[str, Any], start: float, end: float) -> None:
    unit = panel["fieldConfig"]["defaults"].get("unit", "short")
    axis.set_title(panel["title"] if unit == "short" else f"{panel['title']} ({unit})", fontsize=9)
    axis.tick_params(labelsize=7)
    series = [
        (_legend(target["legendFormat"], each["metric"]), *_points(each, start))
        for target in panel["targets"]
        for each in _query(target["expr"], start, end)
    ]
    (_heatmap if panel["type"] == "heatmap" else _lines)(axis, series)
    axis.set_xlim(0, end - start)
    if all(np.isnan(values).all() for _, _, values in series):
        axis.text(0.5, 0.5, "no data", transform=axis.transAxes, ha="center", color="grey")


def _lines(axis: Axes, series: list[tuple[str, np.ndarray, np.ndarray]]) -> None:
    for name, seconds, values in series:
        axis.plot(seconds, values, label=name, linewidth=1)
    axis.set_ylim(bottom=0)
    if series:
        axis.legend(fontsize=6, loc="upper left", ncols=2 if len(series) > 4 else 1)


def _heatmap(axis: Axes, series: list[tuple[str, np.ndarray, np.ndarray]]) -> None:
    """Buckets by time: Prometheus' buckets are cumulative."""
    ordered = sorted(series, key=lambda each: float(each[0]))
    if not ordered:
        return
    counts = np.diff(np.stack([values for _, _, values in ordered]), axis=0, prepend=0)
    axis.pcolormesh(ordered[0][1], range(len(ordered)), counts, shading="nearest", cmap="Blues")
    axis.set_yticks(range(0, len(ordered), 3), [name for name, _, _ in ordered][::3])


def _query(expression: str, start: float, end: float) -> list[dict[str, Any]]:
    """The series of an expression."""
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    asked = {"query": expression, "start": start, "end": end, "step": SCRAPE_SECONDS}
    answer = httpx.get(f"http://{PROMETHEUS}/api/v1/query_range", params=asked).json()
    if answer["status"] != "success":
        sys.exit(f"{expression}: {answer['error']}")
    return answer["data"]["result"]


def _points(series: dict[str, Any], start: float) -> tuple[np.ndarray, np.ndarray]:
    """Seconds since the start, and values."""
    points = np.array(series["values"], dtype=float)
    return points[:, 0] - start, points[:, 1]


def _legend(template: str, labels: dict[str, str]) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), template)


if __name__ == "__main__":
    main()
