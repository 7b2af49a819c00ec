"""PromQL expressions of alerts and scalers: they have to parse and to use existing metrics."""

from __future__ import annotations

import re
from collections.abc import Iterator

import promql_parser

from k8s.manifests import Resource
from serve.ops.metrics import COUNTERS, GAUGES, HISTOGRAMS

OUR_METRICS = re.compile(r"\bray_(lladav_\w+)")
SERIES = {
    *COUNTERS,
    *GAUGES,
    *(f"{name}_{part}" for name in HISTOGRAMS for part in ("bucket", "sum", "count")),
}
"""Prometheus' series names of the metrics in ``serve.ops.metrics``, without Ray's prefix."""


def check(resource: Resource) -> Iterator[str]:
    """Mistakes in the expressions of a PrometheusRule or of a ScaledObject's triggers."""
    for where, expression in expressions(resource):
        try:
            promql_parser.parse(expression)
        except ValueError as error:
            yield f"{where}: {' '.join(str(error).split())}"
        for name in sorted(set(OUR_METRICS.findall(expression)) - SERIES):
            yield f"{where}: ray_{name} is not one of our metrics"


def expressions(resource: Resource) -> Iterator[tuple[str, str]]:
    """The expressions of a resource, each with the name of its alert or trigger."""
    spec = resource.get("spec") or {}
    if resource["kind"] == "PrometheusRule":
        for group in spec["groups"]:
            for rule in group["rules"]:
                yield rule["alert"], rule["expr"]
    if resource["kind"] == "ScaledObject":
        for trigger in spec["triggers"]:
            if trigger["type"] == "prometheus":
                yield trigger.get("name", "trigger"), trigger["metadata"]["query"]
