"""The first page, the pages of queues and resources, and the notices."""

from __future__ import annotations

import contextlib
import html
import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from stoker.cli.pages.charts import WIDTH
from stoker.cli.pages.subjects.load import LoadCharts
from stoker.cli.pages.subjects.notices import notices, steady_facts
from tests.support.facts import until
from tests.support.web_page import WebPageProcess
from tests.support.work import end_of, shell, submit, submit_running

if TYPE_CHECKING:
    from tests.support.daemon import DaemonProcess
    from tests.support.web_page import Browser
    from tests.support.work import Gate

SETTINGS = """
[daemon]
max_running = 4
[cpu]
throttle_threshold = 100
[queues.bulk]
class = "low"
max_running = 2
max_queued = 77
rate = "50/m"
[queues.bulk.defaults]
max_attempts = 3
"""
MINUTE = 60_000


def section(page: str, heading: str) -> str:
    """The part of a page below a heading."""
    return page.partition(f"<h2>{heading}</h2>")[2].partition("<h2>")[0]


def test_overview_when_jobs_run_and_failed_then_both_are_there(
    shared: DaemonProcess, browser: Browser, gate: Gate
) -> None:
    with shared.client() as client:
        running = submit_running(client, gate.spec(name="trains <b>bold</b>", queue="bulk"))
        failed = submit(client, shell("exit 7"), name="broken")
        end_of(client, failed)

        page = browser.get("/")

        assert f'href="/jobs/{running}"' in section(page, "What runs now")
        assert "trains &lt;b&gt;bold&lt;/b&gt;" in section(page, "What runs now")
        assert f'href="/jobs/{failed}"' in section(page, "What failed last")
        assert "exit 7" in section(page, "What failed last")
        assert '<a href="/jobs?queue=bulk&amp;state=running">1' in section(page, "Queues")
        assert "stoker backup" in section(page, "Disk and backup")
        (ended,) = re.findall(r'href="(/jobs\?state=failed&amp;ended_since=[0-9]+)"', page)
        listed = browser.get(html.unescape(ended))
        assert f'href="/jobs/{failed}"' in listed
        assert f'href="/jobs/{running}"' not in listed.partition("<table")[2]
        assert "ended since" in listed
        gate.open()
        end_of(client, running)


def test_overview_when_a_job_starts_then_an_open_page_shows_it(
    shared: DaemonProcess, browser: Browser, gate: Gate
) -> None:
    with shared.client() as client, contextlib.closing(browser.shows("/")) as shown:
        assert "What runs now" in next(shown)

        running = submit_running(client, gate.spec())

        assert next(page for page in shown if f'id="job-{running}"' in page)


def test_overview_when_the_load_was_measured_then_it_has_charts(shared: DaemonProcess, browser: Browser) -> None:
    with shared.client() as client:
        until(lambda: client.call("system.load")["samples"], why="a first sample")

    page = browser.get("/")

    for title in ("CPU", "Free memory", "Slots", "Queued jobs"):
        assert f"<title>{title}, " in page
    assert page.count('<path class="line-') >= 4


def test_queue_when_it_is_paused_and_resumed_then_the_reasons_are_kept(shared: DaemonProcess, browser: Browser) -> None:
    form = browser.get("/queues/bulk/pause")
    assert "0 queued jobs would not start" in form

    paused = browser.post("/queues/bulk/pause", reason="disk <upgrade>")
    resumed = browser.post("/queues/bulk/resume", reason="done")

    assert 'href="/queues/bulk/resume"' in paused
    assert 'href="/queues/bulk/pause"' in resumed
    changes = shared.rows("SELECT payload FROM changes WHERE kind = 'queue' ORDER BY seq DESC LIMIT 2")
    assert [json.loads(payload)["note"] for (payload,) in changes] == ["done", "disk <upgrade>"]


def test_queue_when_the_page_is_read_only_then_no_action_is_offered(shared: DaemonProcess, browser: Browser) -> None:
    with WebPageProcess(shared, "--read-only") as web, web.browser() as reader:
        for path in ("/", "/resources", "/queues/bulk"):
            assert 'href="/queues/bulk/pause"' in browser.get(path)
            assert "/pause" not in reader.get(path)


def test_queue_when_it_is_shown_then_its_settings_are_there(browser: Browser) -> None:
    for path in ("/queues/bulk", "/resources"):
        page = browser.get(path)
        assert "max-attempts=3" in page
        assert "77" in page
        assert "50/m" in page


def test_queues_when_the_address_names_none_of_them_then_all_are_shown(browser: Browser) -> None:
    assert "Queues, resources and rates" in browser.get("/queues")


def test_queue_when_there_is_none_of_that_name_then_a_command_lists_them(browser: Browser) -> None:
    for path in ("/queues/nowhere", "/queues/nowhere/pause", "/queues/%3Cscript%3E"):
        page = browser.get(path, status=404)
        assert "stoker queue ls" in page
        assert "<script>" not in page.partition("<main")[2]


def test_resources_when_a_job_holds_one_then_it_is_named(shared: DaemonProcess, browser: Browser, gate: Gate) -> None:
    with shared.client() as client:
        client.call("resource.set", {"name": "gpu", "capacity": 2})
        client.call("rate.set", {"key": "api", "rate": "10/m", "burst": 5})
        running = submit_running(client, gate.spec(resources={"gpu": 1}))

        page = browser.get("/resources")

        assert f'<a href="/jobs/{running}">{running}</a>' in section(page, "Resources")
        assert "1 of 2 used" in section(page, "Resources")
        assert "10/m, burst 5; 5 may start now" in section(page, "Rates")


def with_changes(status: dict[str, Any], **changes: Any) -> Any:
    return {**status, **changes}


NOTICES: dict[str, tuple[dict[str, Any], str, str, str | None]] = {
    "safe mode": (
        {"safe_mode": "a row is damaged", "safe_mode_next": "stoker restore --from-backup latest"},
        "error",
        "safe mode, changes are refused: a row is damaged",
        "stoker restore --state-dir",
    ),
    "draining": ({"mode": "draining"}, "warning", "No job starts: draining", "stoker status"),
    "a full disk": ({"disk": {"free_bytes": 5, "full": True}}, "error", "new jobs are refused", "stoker purge"),
    "a host without room": (
        {"host_shortage": {"error": "no memory", "since": 1, "next_try_in_ms": 500}},
        "error",
        "no memory",
        None,
    ),
    "a silent launcher": (
        {"launchers": [{"id": "1-ab", "pid": 7, "state": "stuck", "running": 2, "leaked": 0}]},
        "error",
        "Launcher 1-ab does not answer; its 2 jobs may go on",
        "stoker doctor",
    ),
    "a part that fails": ({"retrying": {"journal": "no space"}}, "warning", "journal failed and is tried again", None),
    "held jobs": ({"held": 3}, "note", "3 jobs held for a person", None),
}


@pytest.mark.parametrize("name", NOTICES)
def test_notice_when_it_holds_then_it_says_what_to_do(name: str, shared: DaemonProcess) -> None:
    changes, severity, text, command = NOTICES[name]
    with shared.client() as client:
        status = with_changes(client.call("system.status"), **changes)

    (notice,) = notices(status, steady_facts(status))

    assert notice.severity == severity
    assert text in notice.text
    assert (notice.next or "").startswith(command or "")


def sample(since: int, until_: int, **values: Any) -> Any:
    plain = {"cpu": 10, "memory_free_bytes": 2**30, "throttled": False, "running": 1, "slots": 4, "queues": []}
    return {"since": since, "until": until_, **plain, **values}


def test_load_when_the_daemon_was_off_then_its_charts_have_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time_ns", lambda: 60 * MINUTE * 1_000_000)
    samples = [sample(0, 10 * MINUTE), sample(40 * MINUTE, 59 * MINUTE + 30_000, cpu=50, throttled=True)]

    cpu, _, slots, _ = LoadCharts({"interval_ms": 30_000, "samples": samples}).host()

    assert cpu.lines[0].path.count("M") == 2
    assert cpu.lines[0].path.endswith(f"H{WIDTH}")
    assert [band.x for band in cpu.bands] == [round(40 / 60 * WIDTH)]
    assert "in between not measured" in cpu.text
    assert [line.words.partition(",")[0] for line in slots.lines] == ["in use 1", "of 4"]


def test_load_when_a_queue_is_in_no_sample_then_it_has_no_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time_ns", lambda: 60 * MINUTE * 1_000_000)
    busy = sample(30 * MINUTE, 31 * MINUTE, queues=[{"queue": "bulk", "running": 2, "queued": 9}])
    load: Any = {"interval_ms": 30_000, "samples": [busy, sample(31 * MINUTE + 30_000, 60 * MINUTE)]}

    chart = LoadCharts(load).queue("bulk")

    assert [line.words for line in chart.lines] == [
        "running 0, lowest 0, highest 2",
        "queued 0, lowest 0, highest 9",
    ]


def test_load_when_there_is_no_sample_yet_then_its_charts_are_empty() -> None:
    load: Any = {"interval_ms": 30_000, "samples": []}

    charts = [*LoadCharts(load).host(), LoadCharts(load).queue("bulk")]

    assert [line.path for one in charts for line in one.lines if line.path] == []
