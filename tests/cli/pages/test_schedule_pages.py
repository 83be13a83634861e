"""The pages of schedules, and of what else starts jobs: named events and hooks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.facts import until
from tests.support.flows import flow, step
from tests.support.work import end_of, shell, submit

if TYPE_CHECKING:
    import stoker
    from tests.support.daemon import DaemonProcess
    from tests.support.web_page import Browser

SETTINGS = """
[hooks.tell]
on = ["job.failed"]
command = "/bin/true"
"""


def add(client: stoker.Client, name: str, timing: str = "0 3 1 1 *", **more: object) -> None:
    client.call("schedule.add", {"name": name, "timing": timing, "job": shell("exit 4"), **more})


def test_list_when_there_are_schedules_then_each_leads_to_its_page(shared: DaemonProcess, browser: Browser) -> None:
    with shared.client() as client:
        add(client, "nightly", zone="Europe/Berlin")
        add(client, "resting", paused=True)
        part = {"target": ["link"], "reuse": "latest"}
        sent = flow({"link": step(":"), "beside": step(":")}, name="build")
        client.call("schedule.add", {"name": "rebuild", "timing": "@yearly", "flow": sent, **part})

    shown = browser.get("/schedules")

    assert 'href="/schedules/nightly"' in shown
    assert "Europe/Berlin" in shown
    assert '<span class="state state-paused">paused</span>' in shown
    assert "build --target link --reuse latest" in shown
    assert 'href="/schedules/nightly"' not in browser.get("/schedules?after=nightly")


def test_schedule_when_it_is_opened_then_its_next_ten_times_are_shown(shared: DaemonProcess, browser: Browser) -> None:
    with shared.client() as client:
        add(client, "yearly", misfire="all", overlap="queue", catch_up_ms=7_200_000)

    shown = browser.get("/schedules/yearly")

    assert shown.count("<li>") == 10
    assert "T03:00:00.000+00:00" in shown
    assert "all that came while no daemon ran are made up for, up to 2h old" in shown
    assert "a run waits for the end of the last one" in shown
    assert "&#34;exit 4&#34;" in shown


def test_run_when_its_form_is_sent_then_it_runs_and_the_audit_trail_has_the_reason(
    shared: DaemonProcess, browser: Browser
) -> None:
    with shared.client() as client:
        add(client, "asked")

        shown = browser.post("/schedules/asked/run", reason="the disk was full at night")

        (run,) = client.call("schedule.get", {"name": "asked"})["runs"]
        assert f'href="/jobs/{run["job"]}"' in shown
        assert end_of(client, run["job"])[0] == "failed"
    assert shared.logged("schedule_run", schedule="asked")
    assert shared.rows(
        "SELECT json_extract(payload, '$.note'), json_extract(payload, '$.job') FROM changes WHERE cause = 'run'"
    ) == [("the disk was full at night", run["job"])]


def test_pause_when_its_form_is_sent_then_the_schedule_rests_until_it_is_resumed(
    shared: DaemonProcess, browser: Browser
) -> None:
    with shared.client() as client:
        add(client, "busy")

        paused = browser.post("/schedules/busy/pause", reason="holiday")
        resumed = browser.post("/schedules/busy/resume", reason="back")

    assert "these are its times once it is resumed" in paused
    assert 'href="/schedules/busy/resume"' in paused
    assert 'href="/schedules/busy/pause"' in resumed


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/schedules/nope", 404, "there is no schedule &#39;nope&#39;"),
        ("/schedules/nope/run", 404, "there is no schedule &#39;nope&#39;"),
        ("/schedules/%3Cb%3E", 400, "&lt;b&gt;"),
        ("/triggers?before=x", 400, "is no id"),
    ],
)
def test_schedule_when_its_name_is_bad_then_the_page_names_the_mistake(
    browser: Browser, path: str, status: int, words: str
) -> None:
    assert words in browser.get(path, status)


def test_triggers_when_a_hook_ran_and_an_event_is_kept_then_both_are_shown(
    shared: DaemonProcess, browser: Browser
) -> None:
    with shared.client() as client:
        failed = submit(client, shell("exit 1"))
        end_of(client, failed)
        until(lambda: client.call("hook.get", {"name": "tell"})["runs"], why="a run of the hook")
        run = client.call("hook.get", {"name": "tell"})["runs"][0]
        client.call("event.emit", {"name": "deploy", "data": {"v": 1}, "keep_ms": 3_600_000})

    shown = browser.get("/triggers")

    assert f'href="/jobs/{run["job"]}"' in shown
    assert "job.failed" in shown
    assert "<bdi>deploy</bdi>" in shown
    assert "1 of at most" in shown
