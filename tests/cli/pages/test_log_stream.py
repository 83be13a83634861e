"""The log of a job in a browser: followed, broken off, gone on, searched and kept as a file."""

from __future__ import annotations

import re
from html import unescape
from typing import TYPE_CHECKING

import pytest

from stoker.cli.pages.log_stream import MOST_EVENT_BYTES
from tests.support.facts import until
from tests.support.web_page import Browser, WebPageProcess
from tests.support.work import Gate, end_of, shell, submit, submit_running

if TYPE_CHECKING:
    from collections.abc import Iterator

    import stoker
    from tests.support.daemon import DaemonProcess
    from tests.support.web_page import Event

DIV = re.compile(r'<div class="(line|line cut|remark|line open)">(.*?)</div>')
AFTER = re.compile(r'after="([^"]+)"')


class Reader:
    """The lines that a browser shows: complete lines, and the open one, which each event replaces."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.open = ""
        self.last_id: str | None = None
        self.said: list[str] = []

    def take(self, event: Event) -> None:
        self.said.append(event.kind)
        if event.kind != "show":
            return
        shown = [(kind, unescape(text)) for kind, text in DIV.findall(event.data)]
        self.lines += [text for kind, text in shown if kind != "line open"]
        self.open = next((text for kind, text in shown if kind == "line open"), "")
        self.last_id = event.id

    def read_until(self, events: Iterator[Event], line: str) -> None:
        while line not in self.lines:
            self.take(next(events))


def stream_of(job: int, more: str = "after=1.0") -> str:
    return f"/jobs/{job}/log/stream?{more}"


def test_log_when_the_daemon_is_killed_in_the_middle_then_each_line_comes_once(
    daemon: DaemonProcess, gate: Gate
) -> None:
    reader = Reader()
    with daemon.client() as client, WebPageProcess(daemon) as web, web.browser() as browser:
        script = f"seq 1 500; printf 'half of '; read _ < {gate.path}; echo a line; seq 501 1000; echo last"
        job = submit_running(client, shell(script, on_orphan="requeue", survive=True))
        with browser.events(stream_of(job)) as events:
            while reader.open != "half of ":
                reader.take(next(events))
            daemon.kill9()
            while "away" not in reader.said:
                reader.take(next(events))
            daemon.start()
            gate.open()
            reader.read_until(events, "last")

    assert reader.lines == [*map(str, range(1, 501)), "half of a line", *map(str, range(501, 1001)), "last"]


def test_log_when_a_browser_comes_back_with_its_last_id_then_it_goes_on_there(
    client: stoker.Client, browser: Browser, gate: Gate
) -> None:
    reader = Reader()
    job = submit_running(client, shell(f"printf '\\033[31mred\\nbegun '; read _ < {gate.path}; echo done; echo last"))
    with browser.events(stream_of(job)) as events:
        while reader.open != '<span class="red">begun </span>':
            reader.take(next(events))
    gate.open()
    end_of(client, job)

    with browser.events(stream_of(job), reader.last_id) as events:
        reader.read_until(events, '<span class="red">last</span>')

    assert reader.lines == [f'<span class="red">{text}</span>' for text in ("red", "begun done", "last")]


def test_log_when_two_browsers_show_it_then_a_late_one_misses_nothing(
    client: stoker.Client, browser: Browser, web: WebPageProcess, gate: Gate
) -> None:
    early, late = Reader(), Reader()
    job = submit_running(client, shell(f"seq 1 50; read _ < {gate.path}; echo last"))
    with web.browser() as other, browser.events(stream_of(job)) as first:
        early.read_until(first, "50")
        with other.events(stream_of(job)) as second:
            gate.open()
            early.read_until(first, "last")
            late.read_until(second, "last")

    assert early.lines == late.lines == [*map(str, range(1, 51)), "last"]


def test_log_when_the_job_is_retried_then_the_next_attempt_follows(client: stoker.Client, browser: Browser) -> None:
    reader = Reader()
    job = submit(client, shell("echo try $STOKER_ATTEMPT; exit 1"))
    with browser.events(stream_of(job)) as events:
        reader.read_until(events, "try 1")
        client.call("job.retry", {"id": job})
        reader.read_until(events, "try 2")

    assert reader.lines == ["try 1", "[attempt 2]", "try 2"]


def test_log_when_an_attempt_is_chosen_then_its_stream_ends_with_it(client: stoker.Client, browser: Browser) -> None:
    reader = Reader()
    job = submit(client, shell("echo try $STOKER_ATTEMPT; exit 1", max_attempts=2, base_delay_ms=1))
    end_of(client, job)

    with browser.events(stream_of(job, "attempt=1&after=1.0")) as events:
        for event in events:
            reader.take(event)

    assert reader.lines == ["try 1"]
    assert reader.said[-1] == "end"


def test_log_when_the_page_is_opened_then_the_stream_begins_behind_its_lines(
    client: stoker.Client, browser: Browser, gate: Gate
) -> None:
    reader = Reader()
    job = submit_running(client, shell(f"seq 1 1000; read _ < {gate.path}; echo last"))
    until(lambda: ">1000<" in browser.get(f"/jobs/{job}"), why="all lines in the page")
    page = browser.get(f"/jobs/{job}")
    gate.open()

    after = AFTER.search(page)
    assert after
    with browser.events(stream_of(job, f"after={after[1]}")) as events:
        reader.read_until(events, "last")

    assert [text for _, text in DIV.findall(page)] == [str(number) for number in range(801, 1001)]
    assert reader.lines == ["last"]


@pytest.mark.parametrize("after", ["x", "1", "1.", "-1.0", "1.99999999999999999999", "<b>.0"])
def test_log_when_a_place_is_none_then_the_answer_names_it(client: stoker.Client, browser: Browser, after: str) -> None:
    job = submit(client, shell("exit 0"))

    assert "is no place in a log" in browser.get(stream_of(job, f"after={after}"), 400)


def test_download_when_a_job_still_runs_then_it_has_all_bytes_so_far(
    client: stoker.Client, browser: Browser, gate: Gate
) -> None:
    job = submit_running(client, shell(f"printf '\\377<b>\\033[31m\\000'; read _ < {gate.path}"))
    path = f"/jobs/{job}/log/raw"

    until(lambda: browser.http.get(path).content == b"\xff<b>\x1b[31m\0", why="the bytes")
    headers = browser.http.get(path).headers

    assert headers["content-disposition"] == f'attachment; filename="job-{job}-attempt-1.log"'
    assert headers["content-type"].startswith("text/plain")
    assert headers["x-content-type-options"] == "nosniff"


def test_download_when_there_is_no_such_attempt_then_a_page_names_it(client: stoker.Client, browser: Browser) -> None:
    job = submit(client, shell("echo hi"))
    end_of(client, job)

    assert "has no attempt 7" in browser.get(f"/jobs/{job}/log/raw?attempt=7", 404)
    assert "is no id" in browser.get(f"/jobs/{job}/log/raw?attempt=x", 400)


def test_search_when_a_text_stands_in_many_lines_then_pages_have_them_all(
    client: stoker.Client, browser: Browser
) -> None:
    job = submit(client, shell("for i in $(seq 1 250); do echo Needle $i; echo hay; done"))
    end_of(client, job)
    path: str | None = f"/jobs/{job}/log/search?find=needle"
    found: list[int] = []

    while path:
        page = browser.get(path)
        found += map(int, re.findall(r">Line (\d+)<", page))
        following = re.search(r'href="([^"]+)" rel="next"', page)
        path = unescape(following[1]) if following else None

    assert found == list(range(1, 501, 2))


def test_search_when_it_finds_markup_then_it_is_text(client: stoker.Client, browser: Browser) -> None:
    job = submit(client, shell("echo '<script>alert(1)</script>'"))
    end_of(client, job)

    page = browser.get(f"/jobs/{job}/log/search?find=%3CSCRIPT%3Ealert")

    assert "<mark>&lt;script&gt;alert</mark>(1)" in page
    assert "find: 201 characters" in browser.get(f"/jobs/{job}/log/search?find={'x' * 201}", 400)


def test_log_when_much_of_it_is_new_then_no_event_is_large_and_each_line_comes_once(
    client: stoker.Client, browser: Browser
) -> None:
    reader, sizes = Reader(), []
    job = submit(client, shell("for i in $(seq 600); do printf '%0500d&\\n' $i; done; echo last"))
    end_of(client, job)

    with browser.events(stream_of(job, "attempt=1&after=1.0")) as events:
        for event in events:
            reader.take(event)
            sizes.append(len(event.data))

    assert reader.lines == [f"{number:0500d}&" for number in range(1, 601)] + ["last"]
    assert max(sizes) < 3 * MOST_EVENT_BYTES
