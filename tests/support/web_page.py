"""The server of the web page as a process, and a browser's view of it without a browser.

Owns one `stoker web` on a free port, and a session that holds its cookie. `Browser.get` and `post` behave as a browser
does: they follow redirects, and a form sends the hidden field that the page gave it.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

import httpx

from tests.support.daemon import BIN
from tests.support.facts import DEADLINE_S, line_with

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path
    from typing import Self

    from tests.support.daemon import DaemonProcess

CSRF = re.compile(r'name="csrf" value="([0-9a-f]+)"')


class WebPageProcess:
    """A running `stoker web`; `address` is what it printed, `base` the same without the `token`.

    `socket`: the way to the daemon, if it is not the daemon's own.
    """

    def __init__(self, daemon: DaemonProcess, *options: str, socket: Path | None = None) -> None:
        reached = str(socket or daemon.socket)
        self._command = [str(BIN / "stoker"), "--socket", reached, "web", "--port", "0", *options]
        self._environ = daemon.client_environ

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            self._command, env=self._environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.address = line_with(self.process, self.process.stdout, "http://").strip()
        parts = urlsplit(self.address)
        self.base = f"{parts.scheme}://{parts.netloc}"
        self.token = parts.query.removeprefix("token=")
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.communicate()

    def browser(self) -> Browser:
        """A session that has opened the printed address."""
        browser = Browser(self.base)
        browser.http.get(self.address)
        return browser


class Browser:
    """A session. Close it, or use it as a context."""

    def __init__(self, base: str) -> None:
        self.base = base
        self.http = httpx.Client(
            base_url=base,
            follow_redirects=True,
            headers={"origin": base},
            timeout=60,
            limits=httpx.Limits(max_keepalive_connections=0),  # the server ends idle ones, perhaps as a request arrives
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def get(self, path: str, status: int = 200) -> str:
        answer = self.http.get(path)
        assert answer.status_code == status, (answer.status_code, answer.text)
        return answer.text

    def post(self, path: str, status: int = 200, **fields: str) -> str:
        """Fill in the form at `path` and send it."""
        form = CSRF.search(self.get(path))
        assert form, path
        answer = self.http.post(path, data={"csrf": form[1], **fields})
        assert answer.status_code == status, (answer.status_code, answer.text)
        return answer.text

    def shows(self, path: str) -> Generator[str]:
        """The live part of the page at `path`, each time that it changes. Read it in `contextlib.closing`."""
        with self.events(f"/live{path}") as events:
            yield from (event.data for event in events if event.kind == "show")

    @contextlib.contextmanager
    def events(self, path: str, last_id: str | None = None) -> Iterator[Iterator[Event]]:
        """The events of a stream, as a browser gets them."""
        headers = {} if last_id is None else {"last-event-id": last_id}
        with self.http.stream("GET", path, headers=headers) as answer:
            assert answer.status_code == HTTPStatus.OK, answer.read()
            yield _events_in(answer.iter_lines())


def _events_in(lines: Iterator[str]) -> Iterator[Event]:
    """A quiet stream sends comments for ever: one without an event for too long is an error."""
    fields: dict[str, list[str]] = {}
    newest = time.monotonic()
    for line in lines:
        assert time.monotonic() - newest < DEADLINE_S, "the stream goes on without the event"
        name, _, value = line.partition(": ")
        if line:
            fields.setdefault(name, []).append(value)
        elif "event" in fields:
            yield Event(fields["event"][0], "\n".join(fields["data"]), fields.get("id", [""])[0])
            fields, newest = {}, time.monotonic()


class Event(NamedTuple):
    """One server-sent event."""

    kind: str
    data: str
    id: str
