"""Exports Ray Serve's traces: ``RAY_SERVE_TRACING_EXPORTER_IMPORT_PATH=serve.tracing:otlp``.

Set the variable in the environment in which Ray's nodes start: proxies use neither the ``tracing_config`` of
a Serve config file nor the ``runtime_env`` of an application. This project and the exporter have to be
importable there, too.
"""

from __future__ import annotations

from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor

PACKAGE = "opentelemetry-exporter-otlp-proto-http"


def otlp() -> list[SpanProcessor]:
    """Processors that send spans over HTTP to the collector named by ``OTEL_EXPORTER_OTLP_*``.

    Ray Serve calls this in each proxy and replica. Raises ``ImportError`` if the exporter is not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # pyright: ignore[reportMissingImports]
            OTLPSpanExporter,
        )
    except ImportError:
        raise ImportError(f"traces cannot be exported: install {PACKAGE} on every Ray node") from None
    return [BatchSpanProcessor(OTLPSpanExporter())]
