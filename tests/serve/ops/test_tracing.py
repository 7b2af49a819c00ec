"""Tracing: spans reach the exporter; a missing exporter is named in the error."""

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


def load_as_ray_does() -> list[SpanProcessor]:
    return _load_span_processors("serve.tracing:otlp", "")


def exported_spans() -> list[str]:
    """Names of the spans that reach an exporter. Installs a fake package: call it with ``apart``."""
    exporter = InMemorySpanExporter()
    sys.modules[MODULE] = installed = ModuleType(MODULE)
    installed.__dict__["OTLPSpanExporter"] = lambda: exporter
    provider = TracerProvider()
    for processor in load_as_ray_does():
        provider.add_span_processor(processor)
    provider.get_tracer("test").start_span("a span").end()
    provider.force_flush()
    return [span.name for span in exporter.get_finished_spans()]


def error_without_exporter() -> str:
    """Hides the package permanently: call it with ``apart``."""
    sys.modules.update({MODULE: None})  # type: ignore[dict-item] - None blocks the import
    with pytest.raises(ImportError) as caught:
        load_as_ray_does()
    return str(caught.value)


def test_spans_reach_the_exporter() -> None:
    assert apart(exported_spans) == ["a span"]


def test_a_missing_exporter_is_named() -> None:
    assert f"install {PACKAGE} on every Ray node" in apart(error_without_exporter)
