"""Where traces go: a collector if its exporter is installed; if not, what is missing."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from ray.serve._private.tracing_utils import _load_span_processors

from serve.tracing import PACKAGE
from tests.apart import apart

MODULE = "opentelemetry.exporter.otlp.proto.http.trace_exporter"


def as_ray_loads_it() -> list[SpanProcessor]:
    return _load_span_processors("serve.tracing:otlp", "")


def exported_spans() -> list[str]:
    """Names of the spans that reach an exporter which it installs: call it ``apart``."""
    kept = InMemorySpanExporter()
    sys.modules[MODULE] = installed = ModuleType(MODULE)
    installed.__dict__["OTLPSpanExporter"] = lambda: kept
    provider = TracerProvider()
    for processor in as_ray_loads_it():
        provider.add_span_processor(processor)
    provider.get_tracer("test").start_span("a span").end()
    provider.force_flush()
    return [span.name for span in kept.get_finished_spans()]


def complaint_without_exporter() -> str:
    """Hides the package for good: call it ``apart``."""
    sys.modules.update({MODULE: None})  # type: ignore[dict-item] - as the import system documents it
    with pytest.raises(ImportError) as caught:
        as_ray_loads_it()
    return str(caught.value)


def test_spans_reach_the_exporter() -> None:
    assert apart(exported_spans) == ["a span"]


def test_a_missing_exporter_is_named() -> None:
    assert f"install {PACKAGE} on every node" in apart(complaint_without_exporter)
