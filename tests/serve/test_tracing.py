"""Where traces go: a collector if its exporter is installed; if not, what is missing."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from ray.serve._private.tracing_utils import _load_span_processors

from serve.tracing import PACKAGE

MODULE = "opentelemetry.exporter.otlp.proto.http.trace_exporter"


def as_ray_loads_it() -> list[SpanProcessor]:
    return _load_span_processors("serve.tracing:otlp", "")


def test_spans_reach_the_exporter(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = InMemorySpanExporter()
    installed = ModuleType(MODULE)
    installed.__dict__["OTLPSpanExporter"] = lambda: kept
    monkeypatch.setitem(sys.modules, MODULE, installed)
    provider = TracerProvider()
    for processor in as_ray_loads_it():
        provider.add_span_processor(processor)
    provider.get_tracer("test").start_span("a span").end()
    provider.force_flush()
    assert [span.name for span in kept.get_finished_spans()] == ["a span"]


def test_a_missing_exporter_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, MODULE, None)
    with pytest.raises(ImportError, match=f"install {PACKAGE} on every node"):
        as_ray_loads_it()
