"""Chooses where traces and metrics go: a collector (OTLP), stdout, or a port that Prometheus reads.

Owns the exporters that `[otel]` asks for. A missing package is an error that names the extra to install. The packages
are imported by name, as they are not among Stoker's own dependencies.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any

from opentelemetry.sdk.metrics.export import (
    ConsoleMetricExporter,
    MetricReader,
    MetricsData,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter

from stoker.config.settings import OtelSettings
from stoker.core.errors import CannotCreate, ConfigInvalid
from stoker.telemetry.metrics_port import MetricsPort
from stoker.telemetry.otel_sdk import ExportingTelemetry

OTLP = "opentelemetry.exporter.otlp.proto.http"


def from_settings(settings: OtelSettings, *, version: str, instance: str) -> ExportingTelemetry:
    """Raises ConfigInvalid if the package of an exporter is missing, CannotCreate if the port is taken."""
    processors: list[SpanProcessor] = []
    readers: list[MetricReader] = []
    closers: list[Callable[[], object]] = []
    match settings.exporter:
        case "otlp":
            spans, metrics = _otlp(settings.endpoint)
            processors.append(BatchSpanProcessor(spans))
            readers.append(PeriodicExportingMetricReader(metrics))
        case "console":
            processors.append(BatchSpanProcessor(ConsoleSpanExporter(out=sys.stdout, formatter=_span_line)))
            readers.append(PeriodicExportingMetricReader(ConsoleMetricExporter(sys.stdout, _metrics_line)))
    if settings.prometheus_port:
        reader, close = _prometheus(settings.prometheus_port)
        readers.append(reader)
        closers.append(close)
    return ExportingTelemetry(processors, readers, version=version, instance=instance, closers=closers)


def _otlp(endpoint: str) -> tuple[Any, Any]:
    """The exporters of spans and of metrics; without an endpoint they follow OTEL_EXPORTER_OTLP_ENDPOINT."""
    spans = _package(f"{OTLP}.trace_exporter", 'exporter = "otlp"', "otlp").OTLPSpanExporter
    metrics = _package(f"{OTLP}.metric_exporter", 'exporter = "otlp"', "otlp").OTLPMetricExporter
    base = endpoint.rstrip("/")
    return (spans(f"{base}/v1/traces"), metrics(f"{base}/v1/metrics")) if base else (spans(), metrics())


def _prometheus(port: int) -> tuple[MetricReader, Callable[[], object]]:
    key = f"prometheus_port = {port}"
    exporter = _package("opentelemetry.exporter.prometheus", key, "prometheus")
    client = _package("prometheus_client", key, "prometheus")
    try:
        server = MetricsPort(port, client.make_wsgi_app())
    except OSError as error:
        raise CannotCreate(f"[otel] {key}: {error.strerror}", hint="choose another port") from error
    reader: MetricReader = exporter.PrometheusMetricReader()
    return reader, server.close


def _package(module: str, key: str, extra: str) -> ModuleType:
    try:
        return import_module(module)
    except ImportError as error:
        message = f"[otel] {key} needs packages that are not installed"
        raise ConfigInvalid(message, hint=f"pip install 'stoker[{extra}]'", errors=[message]) from error


def _span_line(span: ReadableSpan) -> str:
    return f"{span.to_json(indent=None)}\n"


def _metrics_line(metrics: MetricsData) -> str:
    return f"{metrics.to_json(indent=None)}\n"
