"""Alert rules, and whatever else asks Prometheus: expressions parse, and ask for metrics that there are."""

from __future__ import annotations

import re
from collections.abc import Iterator

import promql_parser

from k8s.manifests import Resource
from serve.ops.metrics import COUNTERS, GAUGES, HISTOGRAMS

OURS = re.compile(r"\bray_(lladav_\w+)")
SERIES = {
    *COUNTERS,
    *GAUGES,
    *(f"{name}_{part}" for name in HISTOGRAMS for part in ("bucket", "sum", "count")),
}
"""Names under which Prometheus keeps what ``serve.ops.metrics`` counts, without Ray's prefix."""


def check(resource: Resource) -> Iterator[str]:
    """Mistakes in the expressions of a PrometheusRule or of a ScaledObject's triggers."""
    for where, expression in expressions(resource):
        try:
            promql_parser.parse(expression)
        except ValueError as error:
            yield f"{where}: {' '.join(str(error).split())}"
        for name in sorted(set(OURS.findall(expression)) - SERIES):
            yield f"{where}: ray_{name} is no metric of ours"


def expressions(resource: Resource) -> Iterator[tuple[str, str]]:
    """Where an expression stands, and the expression."""
    spec = resource.get("spec") or {}
    if resource["kind"] == "PrometheusRule":
        for group in spec["groups"]:
            for rule in group["rules"]:
                yield rule["alert"], rule["expr"]
    if resource["kind"] == "ScaledObject":
        for trigger in spec["triggers"]:
            if trigger["type"] == "prometheus":
                yield trigger.get("name", "trigger"), trigger["metadata"]["query"]
