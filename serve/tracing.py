"""Where Ray Serve's traces go: ``RAY_SERVE_TRACING_EXPORTER_IMPORT_PATH=serve.tracing:otlp``.

The variable has to be set where Ray's nodes start, as proxies know neither the ``tracing_config`` of a Serve
config file nor the ``runtime_env`` of an application; this project and the exporter must be found there, too.
"""

from __future__ import annotations

from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor

PACKAGE = "opentelemetry-exporter-otlp-proto-http"


def otlp() -> list[SpanProcessor]:
    """Spans go over HTTP to the collector that OpenTelemetry's ``OTEL_EXPORTER_OTLP_*`` variables name.

    Called by Ray Serve in each proxy and replica. Raises ``ImportError`` where the exporter is missing.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # pyright: ignore[reportMissingImports]
            OTLPSpanExporter,
        )
    except ImportError:
        raise ImportError(f"traces cannot be exported: install {PACKAGE} on every node of Ray") from None
    return [BatchSpanProcessor(OTLPSpanExporter())]
