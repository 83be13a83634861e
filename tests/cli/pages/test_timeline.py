"""The timeline: its times, its bars, its table."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from stoker.cli.pages.page import Asked
from stoker.cli.pages.subjects.timeline import RANGES, chosen, how_it_ended, sign_of
from stoker.core.errors import UsageError
from tests.support.work import end_of, shell, submit, submit_running

if TYPE_CHECKING:
    from tests.support.daemon import DaemonProcess
    from tests.support.web_page import Browser
    from tests.support.work import Gate

NOW = 1_796_112_000_000
HOUR = 3_600_000


def asked(**query: str) -> Asked:
    return Asked("/attempts", (), tuple((name.rstrip("_"), value) for name, value in query.items()))


def test_timeline_when_attempts_ended_and_run_then_each_has_a_bar_and_a_row(
    shared: DaemonProcess, browser: Browser, gate: Gate
) -> None:
    with shared.client() as client:
        client.call("queue.set", {"name": "few"})  # whose bars are not joined, however many jobs were there before
        running = submit_running(client, gate.spec(name='"<i>quoted', queue="few"))
        failed = submit(client, shell("exit 3"), queue="few")
        end_of(client, failed)

        page = browser.get("/attempts?range=15m")

        assert re.search(rf'<a href="/jobs/{running}" aria-label="job {running}, &#34;&lt;i&gt;quoted, running', page)
        assert "exit 3" in page
        for job in (running, failed):
            assert f'<tr id="attempt-{job}.1.' in page
        assert 'class="bar bar-failed"' in page.partition('role="group"')[2]


def test_timeline_when_a_past_time_is_chosen_then_later_attempts_are_left_out(
    shared: DaemonProcess, browser: Browser
) -> None:
    with shared.client() as client:
        end_of(client, submit(client, shell("exit 0")))

    page = browser.get("/attempts?from=2020-01-01T00:00&to=2020-01-02T00:00")

    assert "0 attempts" in page
    assert 'value="2020-01-01T00:00"' in page


def test_timeline_when_attempts_are_many_then_bars_are_joined_and_rows_paged(
    shared: DaemonProcess, browser: Browser
) -> None:
    with shared.client() as client:
        jobs = [submit(client, shell("exit 0"), name=f"one-{number}") for number in range(60)]
        for job in jobs:
            end_of(client, job)

    page = browser.get("/attempts?range=24h&by=all")
    older = re.search(r'<a href="([^"]+)" rel="next">older', page)
    assert older
    second = browser.get(older[1].replace("&amp;", "&"))

    assert re.search(r'aria-label="\d+ attempts, ', page)
    assert page.count('<tr id="attempt-') == 50
    shown = set(re.findall(r'<tr id="attempt-([^"]+)"', page)) & set(re.findall(r'<tr id="attempt-([^"]+)"', second))
    assert not shown, "a row is on both pages"


@pytest.mark.parametrize(
    "query",
    [
        "range=2y",
        "from=yesterday",
        "from=2026-01-02T00:00&to=2026-01-01T00:00",
        "to=99999999999999&from=1",
        "by=phase",
        "before=x",
        "from=9999-12-31T23:59&to=9999-12-31T23:59",
    ],
)
def test_timeline_when_the_address_is_wrong_then_the_page_says_what(query: str, browser: Browser) -> None:
    page = browser.get(f"/attempts?{query}", status=400)

    assert query.partition("=")[0] in page.partition("<main")[2]


@pytest.mark.parametrize("name", RANGES)
def test_time_when_it_ends_now_then_it_moves_in_steps(name: str) -> None:
    first, later = chosen(asked(range=name), NOW), chosen(asked(range=name), NOW + 1)

    assert first.end - first.begin == RANGES[name]
    assert first.end >= NOW
    assert later.end - first.end in (0, RANGES[name] // 240)


def test_time_when_only_its_end_is_given_then_it_is_the_hour_before() -> None:
    assert chosen(asked(to=str(NOW)), 0) == (NOW - HOUR, NOW, None)


def test_time_when_its_end_comes_first_then_it_is_refused() -> None:
    with pytest.raises(UsageError, match="to must be later"):
        chosen(asked(from_=str(NOW), to=str(NOW)), NOW)


def attempt(**values: Any) -> Any:
    plain = {
        "ended_at": NOW,
        "is_last": True,
        "job_state": "failed",
        "stop_reason": None,
        "outcome": "exit",
        "exit_code": 1,
        "signal": None,
    }
    return {**plain, **values}


@pytest.mark.parametrize(
    ("values", "sign", "words"),
    [
        ({"ended_at": None, "outcome": None, "exit_code": None}, "running", ""),
        ({"exit_code": 0, "job_state": "succeeded"}, "succeeded", "exit 0"),
        ({"exit_code": 3, "job_state": "succeeded"}, "succeeded", "exit 3"),
        ({"exit_code": 0, "is_last": False}, "succeeded", "exit 0"),
        ({"exit_code": 3, "is_last": False, "job_state": "succeeded"}, "failed", "exit 3"),
        ({"outcome": "signal", "exit_code": None, "signal": 9}, "failed", "signal 9"),
        (
            {"outcome": "signal", "exit_code": None, "signal": 15, "stop_reason": "timeout"},
            "stopped",
            "signal 15, stopped: timeout",
        ),
        ({"outcome": "unseen", "exit_code": None}, "unseen", "unseen"),
        ({"outcome": "spawn_error", "exit_code": None}, "failed", "spawn error"),
        ({"outcome": "never_started", "exit_code": None}, "stopped", "never started"),
    ],
)
def test_sign_when_an_attempt_ended_then_it_says_how(values: dict[str, Any], sign: str, words: str) -> None:
    assert (sign_of(attempt(**values)), how_it_ended(attempt(**values))) == (sign, words)
