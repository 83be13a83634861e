"""The port that Prometheus reads: metrics over HTTP, to a few readers at a time.

Every user of the host can connect to it. To protect the daemon's threads and descriptors, a reader that sends nothing
is disconnected, and connections beyond a few are closed at once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from socketserver import TCPServer, ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

MOST_READERS = 8
READ_S = 2.0
ACCEPT_AGAIN_S = 1.0


class MetricsRequest(WSGIRequestHandler):
    """One request, which is not logged."""

    timeout = READ_S

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """The daemon's log holds no access log."""


class MetricsPort(ThreadingMixIn, WSGIServer):
    """Serves `app` on a port of this host. Raises OSError if the port is taken."""

    daemon_threads = True

    def __init__(self, port: int, app: Callable[..., Any]) -> None:
        super().__init__(("127.0.0.1", port), MetricsRequest)
        self._free = threading.BoundedSemaphore(MOST_READERS)
        self.set_app(app)
        self._serve_apart()

    def _serve_apart(self) -> None:
        threading.Thread(target=self.serve_forever, name="metrics-port", daemon=True).start()

    def server_bind(self) -> None:
        """Bind without looking up the name of the host, which may take long."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]
        self.setup_environ()

    def close(self) -> None:
        self.shutdown()
        self.server_close()

    def get_request(self) -> tuple[Any, Any]:
        try:
            return super().get_request()
        except OSError:  # no descriptor is left, and the connection stays ready to be accepted
            time.sleep(ACCEPT_AGAIN_S)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # the kernel refuses a thread
            self._free.release()
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore readers that hang up: the default prints a traceback."""
