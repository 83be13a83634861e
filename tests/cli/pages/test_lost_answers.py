"""Actions whose answer is lost: the page says what is known, and sends nothing a second time.

Owns a relay between `stoker web` and the daemon, which cuts the connection where a test wants it.
"""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
from typing import TYPE_CHECKING

import pytest

from tests.support.facts import until
from tests.support.web_page import CSRF, WebPageProcess
from tests.support.work import end_of, shell, submit

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import stoker
    from tests.support.daemon import DaemonProcess
    from tests.support.web_page import Browser

PIECE = 1 << 20


class CuttingRelay(socketserver.ThreadingUnixStreamServer):
    """A socket that passes everything to the daemon and back, but no answer to what names `method`."""

    def __init__(self, daemon: DaemonProcess, path: Path, method: str) -> None:
        super().__init__(str(path), RelayedConnection)
        self.path = path
        self.target = str(daemon.socket)
        self.method = f'"{method}"'.encode()


class RelayedConnection(socketserver.BaseRequestHandler):
    server: CuttingRelay

    def handle(self) -> None:
        with socket.socket(socket.AF_UNIX) as daemon:
            daemon.connect(self.server.target)
            back = threading.Thread(target=self._pass_back, args=(daemon,))
            back.start()
            with contextlib.suppress(OSError):  # either side may be gone
                while data := self.request.recv(PIECE):
                    if self.server.method in data:
                        self.request.shutdown(socket.SHUT_RDWR)
                    daemon.sendall(data)
                daemon.shutdown(socket.SHUT_RDWR)
            back.join()

    def _pass_back(self, daemon: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := daemon.recv(PIECE):
                self.request.sendall(data)
            self.request.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def cut_off(shared: DaemonProcess, tmp_path: Path) -> Iterator[Browser]:
    """A browser of a page that gets no answer to a retry."""
    with CuttingRelay(shared, tmp_path / "relay", "job.retry") as relay:
        threading.Thread(target=relay.serve_forever).start()
        with WebPageProcess(shared, socket=relay.path) as web, web.browser() as browser:
            yield browser
        relay.shutdown()


def failed_job(client: stoker.Client) -> int:
    job = submit(client, shell("exit 1"))
    end_of(client, job)
    return job


def test_action_when_its_answer_is_lost_then_the_page_says_that_it_may_be_done(
    client: stoker.Client, cut_off: Browser
) -> None:
    job = failed_job(client)

    page = cut_off.post(f"/jobs/{job}/retry", 503)

    assert "It may have been done all the same." in page
    assert "<come-back>" not in page, "a browser would send the form again"
    until(lambda: client.get(job)["attempts"] == 2, why="the retry, which the daemon had read")


def test_chosen_jobs_when_an_answer_is_lost_then_its_row_says_that_it_may_be_done(
    client: stoker.Client, cut_off: Browser
) -> None:
    job = failed_job(client)

    page = cut_off.post(f"/jobs/chosen?act=job.retry&id={job}")

    assert "it may have been done all the same" in page


def test_action_when_the_daemon_is_away_then_the_page_says_that_nothing_changed(daemon: DaemonProcess) -> None:
    with WebPageProcess(daemon) as web, web.browser() as browser:
        with daemon.client() as client:
            job = failed_job(client)
        form = CSRF.search(browser.get(f"/jobs/{job}/retry"))
        assert form
        daemon.kill9()

        answer = browser.http.post(f"/jobs/{job}/retry", data={"csrf": form[1]})

        assert answer.status_code == 503
        assert "Nothing was changed." in answer.text
        assert "<come-back>" not in answer.text
        assert "<come-back>" in browser.get(f"/jobs/{job}", 503)
