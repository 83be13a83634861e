"""A receiver of OTLP over HTTP, which keeps what it was sent, read with OpenTelemetry's own messages."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self


class Collector(HTTPServer):
    """Listens at a port of its own while it is entered."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.bodies: list[tuple[str, bytes]] = []

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"

    def resources(self) -> list[dict[str, str]]:
        """The attributes of each resource that spans came from."""
        resources = (group.resource for request in self._traces() for group in request.resource_spans)
        return [{each.key: each.value.string_value for each in resource.attributes} for resource in resources]

    def spans(self) -> list[Any]:
        groups = (group for request in self._traces() for group in request.resource_spans)
        return [span for group in groups for scope in group.scope_spans for span in scope.spans]

    def metrics(self) -> list[Any]:
        requests = (ExportMetricsServiceRequest.FromString(body) for path, body in self.bodies if path == "/v1/metrics")
        groups = (group for request in requests for group in request.resource_metrics)
        return [metric for group in groups for scope in group.scope_metrics for metric in scope.metrics]

    def _traces(self) -> Iterator[Any]:
        return (ExportTraceServiceRequest.FromString(body) for path, body in self.bodies if path == "/v1/traces")


class _Answers(BaseHTTPRequestHandler):
    """Accepts every export."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        assert isinstance(self.server, Collector)
        self.server.bodies.append((self.path, body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Print nothing."""
