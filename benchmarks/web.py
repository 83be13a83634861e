"""The web page: the overview with a million ended jobs, the bytes of a first visit, and its cost for the daemon.

The ended jobs are copies of one that a daemon ran. The changes come from a client that holds and releases a job at a
fixed pace. Open pages are streams that are read and thrown away, as fast as they come.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import selectors
import socket
import statistics
import threading
import time
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from benchmarks.footprint import cpu_ns
from benchmarks.harness import TRUE, RawConnection, Scale, daemon, request
from benchmarks.purge import QUEUE, answers_ms, copy_job, run_one
from benchmarks.table import Row
from stoker.cli.pages.subjects.tables import ALL_PAGES
from tests.support.flows import sent_flow, step
from tests.support.web_page import WebPageProcess
from tests.support.work import end_of, shell, submit

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tests.support.daemon import DaemonProcess
    from tests.support.web_page import Browser

NO_JOURNAL = "[journal]\nenabled = false\n"  # it would write for minutes what no daemon ever ran
FAILED = 20
VISITS = 20
CHANGES_A_SECOND = 100
OPEN_PAGES = 100
ASSETS = re.compile(r'(?:href|src)="(/static/[^"]+)"')


def rows(scale: Scale) -> Iterator[Row]:
    with daemon(settings=NO_JOURNAL) as process:
        ended = run_one(process)
        process.stop()
        copy_job(process.state_dir, ended, scale.deep, logs=0, with_changes=False)
        process.start()
        places = visited_places(process)
        with WebPageProcess(process) as web, web.browser() as browser:
            yield of_overview(scale, process, browser, places)
            yield of_first_visit(browser, places)
            yield of_changes(scale, process, web)
            yield of_open_pages(scale, process, web, places)


def visited_places(process: DaemonProcess) -> list[str]:
    """The addresses of all pages that this daemon can fill, after some jobs have failed."""
    with process.client() as client:
        for job in [submit(client, shell("exit 7")) for _ in range(FAILED)]:
            end_of(client, job)
        flow = sent_flow(client, {"build": step("exit 0"), "test": step("exit 0", "build")})
        named = {"job": job, "workflow": flow, "queue": QUEUE, "epoch": 1}
    paths = [page.path for page in ALL_PAGES if set(re.findall(r"{(\w+)}", page.path)) <= named.keys()]
    return [path.format_map(named) for path in paths]


def of_overview(scale: Scale, process: DaemonProcess, browser: Browser, places: Iterable[str]) -> Row:
    """From the request to the whole answer, at the browser."""
    browser.get("/")
    before = cpu_ns([process.pid])
    times = [_visit_ms(browser, "/") for _ in range(VISITS)]
    daemon_ms = (cpu_ns([process.pid]) - before) / VISITS / 1e6
    others = {place: statistics.median(_visit_ms(browser, place) for _ in range(3)) for place in places}
    slowest = max(others, key=lambda place: others[place])
    figures = f"the daemon computes {daemon_ms:.1f} ms of it; the slowest page is {slowest}: {others[slowest]:.0f} ms"
    return Row(f"overview with {scale.deep:,} ended jobs", times, 100, 50, figures, unit=" ms")


def _visit_ms(browser: Browser, place: str) -> float:
    begin = time.perf_counter()
    browser.get(place)
    return (time.perf_counter() - begin) * 1_000


def of_first_visit(browser: Browser, places: Iterable[str]) -> Row:
    """As transferred: compressed, with style and script, without headers."""
    kilobytes = {}
    for place in places:
        answer = browser.http.get(place)
        assets = [browser.http.get(path) for path in dict.fromkeys(ASSETS.findall(answer.text))]
        kilobytes[place] = sum(one.num_bytes_downloaded for one in (answer, *assets)) / 1_000
    largest = max(kilobytes, key=lambda place: kilobytes[place])
    figures = f"the largest of {len(kilobytes)}: {largest}; overview {kilobytes['/']:.1f} kB"
    return Row("bytes of a first visit to a page", [kilobytes[largest]], 60, 30, figures, unit=" kB")


def of_changes(scale: Scale, process: DaemonProcess, web: WebPageProcess) -> Row:
    """The CPU of the daemon with one open page, less that without."""
    shares = []
    with RawConnection(process.socket) as connection:
        (job,) = connection.submit(1, {**TRUE, "queue": QUEUE})
        for _ in range(scale.rounds):
            plain = _busy_percent(process, connection, job, scale.idle_s / 2)
            with OpenPages(web, ["/"]):
                shares.append(_busy_percent(process, connection, job, scale.idle_s / 2) - plain)
    figures = f"{plain:.1f} % without it, over {scale.idle_s / 2:g} s"
    what = f"CPU of the daemon for one open page, {CHANGES_A_SECOND} changes a second, of one core"
    return Row(what, shares, 5, 3, figures, unit=" %")


def _busy_percent(process: DaemonProcess, connection: RawConnection, job: int, seconds: float) -> float:
    """Of one core, while a job is held and released at the pace."""
    asked = itertools.cycle([request("job.hold", {"id": job}), request("job.release", {"id": job})])
    begin_ns, begin = cpu_ns([process.pid]), time.perf_counter()
    for count in range(1, 2 * round(CHANGES_A_SECOND * seconds / 2) + 1):
        connection.ask(next(asked))
        time.sleep(max(0.0, begin + count / CHANGES_A_SECOND - time.perf_counter()))
    return (cpu_ns([process.pid]) - begin_ns) / 1e7 / (time.perf_counter() - begin)


def of_open_pages(scale: Scale, process: DaemonProcess, web: WebPageProcess, places: list[str]) -> Row:
    """The answers to another client that submits one job after the other."""
    pairs = []
    with RawConnection(process.socket) as connection:
        for _ in range(scale.rounds):
            calm = _p99_ms(connection, scale.idle_s / 4)
            with OpenPages(web, itertools.islice(itertools.cycle(places), OPEN_PAGES)):
                pairs.append((_p99_ms(connection, scale.idle_s / 4), calm))
    loaded, calm = pairs[-1]
    figures = f"{loaded:.2f} ms; {calm:.2f} ms without"
    what = f"p99 of answers to submits with {OPEN_PAGES} open pages, against none"
    return Row(what, [loaded / calm for loaded, calm in pairs], 1.5, 1.2, figures, unit="x")


def _p99_ms(connection: RawConnection, seconds: float) -> float:
    end = time.monotonic() + seconds
    return statistics.quantiles(answers_ms(connection, lambda: time.monotonic() < end), n=100)[-1]


class OpenPages:
    """The live parts of pages, open at once; each has sent its first state when the context begins."""

    def __init__(self, web: WebPageProcess, places: Iterable[str]) -> None:
        self._places = list(places)
        address = urlsplit(web.address)
        self._server = (address.hostname, address.port)
        token = parse_qs(address.query)["token"][0]
        self._headers = f"Host: {address.netloc}\r\nAuthorization: Bearer {token}\r\n\r\n"
        self._selector = selectors.DefaultSelector()
        self._closing = threading.Event()
        self._reader = threading.Thread(target=self._read)

    def __enter__(self) -> None:
        for place in self._places:
            stream = socket.create_connection(self._server)
            stream.sendall(f"GET /live{place} HTTP/1.1\r\n{self._headers}".encode())
            self._selector.register(stream, selectors.EVENT_READ)
        for key in tuple(self._selector.get_map().values()):
            if b" 200 " not in key.fileobj.recv(64):  # type: ignore[union-attr]
                raise AssertionError("a page cannot be opened")
        self._reader.start()

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._reader.join()
        for key in tuple(self._selector.get_map().values()):
            with contextlib.closing(key.fileobj):  # type: ignore[type-var]
                self._selector.unregister(key.fileobj)
        self._selector.close()

    def _read(self) -> None:
        while not self._closing.is_set():
            for key, _ in self._selector.select(timeout=0.1):
                key.fileobj.recv(1 << 20)  # type: ignore[union-attr]
