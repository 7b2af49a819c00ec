"""The Grafana dashboard: its panels use existing metrics, and its layout is valid."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
import ray.serve

EXPORTED = re.compile(r"\bray_((?:lladav|serve)_[a-z_]+)")
PARTS = re.compile(r"_(bucket|sum|count)$")
VARIABLES = re.compile(r"\$\{?([A-Za-z_]+)")
RANGE = re.compile(r"\[(?:\$__rate_interval|\d+[mh])\]")
GRID = 24
SHOWN_AS_TOTALS = {"serve_deployment_replica_starts_total", "serve_health_check_failures_total"}
"""Counters that begin at their first event, which a rate does not see."""


@pytest.fixture(scope="module")
def board(root: Path) -> dict[str, Any]:
    file = root / "k8s" / "components" / "monitoring" / "serving.json"
    return json.loads(file.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def expressions(board: dict[str, Any]) -> list[str]:
    """All PromQL expressions, of panels and variables."""
    panels = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    return panels + [each["definition"] for each in board["templating"]["list"] if "definition" in each]


def metrics_of(expressions: list[str], prefix: str) -> set[str]:
    """Names of metrics without Ray's prefix and the suffixes of histograms."""
    names = {PARTS.sub("", name) for text in expressions for name in EXPORTED.findall(text)}
    return {name for name in names if name.startswith(prefix)}


def test_our_metrics_exist_in_the_server(expressions: list[str]) -> None:
    from serve.ops.metrics import NAMES

    assert metrics_of(expressions, "lladav_") - NAMES == set()


def test_serve_metrics_exist_in_ray(expressions: list[str]) -> None:
    source = "".join(
        file.read_text(encoding="utf-8") for file in Path(ray.serve.__file__).parent.rglob("_private/*.py")
    )
    wanted = metrics_of(expressions, "serve_")
    assert len(wanted) > 3
    assert not [name for name in wanted if f'"{name}"' not in source and f'"{name[:-6]}"' not in source]


def test_brackets_and_quotes_are_balanced(expressions: list[str]) -> None:
    for text in expressions:
        assert all(text.count(left) == text.count(right) for left, right in ("()", "[]", "{}"))
        assert text.count('"') % 2 == 0


def test_counters_use_rates_and_quantiles_keep_the_le_label(expressions: list[str]) -> None:
    for text in expressions:
        if not text.startswith("label_values") and not metrics_of([text], "serve_") & SHOWN_AS_TOTALS:
            assert len(re.findall(r"_(?:total|bucket|sum|count)\b", text)) == len(RANGE.findall(text))
        if "histogram_quantile" in text:
            assert re.search(r"by \(le\b", text)


def test_every_variable_is_defined(board: dict[str, Any]) -> None:
    defined = {each["name"] for each in board["templating"]["list"]}
    used = set(VARIABLES.findall(json.dumps(board["panels"])))
    assert used - defined == {"__rate_interval"}
    assert defined - used == set()


def test_every_query_uses_the_selected_data_source(board: dict[str, Any]) -> None:
    source = {"type": "prometheus", "uid": "${datasource}"}
    (chooser,) = [each for each in board["templating"]["list"] if each["type"] == "datasource"]
    assert (chooser["name"], chooser["query"]) == ("datasource", "prometheus")
    for panel in board["panels"]:
        for holder in (panel, *panel["targets"]) if "targets" in panel else ():
            assert holder["datasource"] == source


def test_panels_have_names_and_do_not_overlap(board: dict[str, Any]) -> None:
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({panel["title"] for panel in panels}) == len(panels)
    assert all(panel["description"] for panel in panels if panel["type"] != "row")
    cells = list(itertools.chain.from_iterable(cells_of(panel["gridPos"]) for panel in panels))
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < GRID


def cells_of(position: dict[str, int]) -> list[tuple[int, int]]:
    columns = range(position["x"], position["x"] + position["w"])
    return [(x, y) for x in columns for y in range(position["y"], position["y"] + position["h"])]


def test_grafana_can_import_it(board: dict[str, Any]) -> None:
    assert board["schemaVersion"] >= 39
    assert re.fullmatch(r"[a-zA-Z0-9_-]{1,40}", board["uid"])
    assert [panel["title"] for panel in board["panels"] if panel["type"] == "row"] == [
        "Traffic and errors",
        "Latency",
        "Refresh intervals",
        "Rows and queue",
        "Replicas",
    ]
