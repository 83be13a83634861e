"""The screen of `stoker top` against a real daemon: tables, filters, order, details, actions, and what may go wrong."""

from __future__ import annotations

import time
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import pytest

from stoker.cli.screen import background, job_list
from tests.support import flows, work
from tests.support.facts import DEADLINE_S, until, until_async
from tests.support.screens import opened

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import stoker
    from tests.support.daemon import DaemonProcess

HOUR_MS = 3_600_000
EVIL = "evil \x1b[2J\x1b]0;title\x07\u202e\u009b31m name"


@pytest.fixture
def calls(shared: DaemonProcess) -> Iterator[stoker.Client]:
    """A client; afterwards no job is left that a later test would see."""
    with shared.client() as client:
        yield client
        client.call("queue.resume", {"name": "default"})
        for job in client.list(states=["waiting", "queued", "running", "held"], limit=1_000)["jobs"]:
            client.cancel(job["id"])
        until(lambda: not client.list(states=["waiting", "queued", "running", "held"])["jobs"])


def later(name: str, **options: Any) -> dict[str, Any]:
    """The spec of a job that waits."""
    return {"command": "/bin/true", "name": name, "run_at": time.time_ns() // 1_000_000 + HOUR_MS, **options}


async def test_jobs_when_they_come_run_and_end_then_the_table_follows(
    shared: DaemonProcess, calls: stoker.Client, gate: work.Gate
) -> None:
    work.submit(calls, later("first"))
    async with opened(shared) as screen:
        await screen.until("first", "waiting", "0/", "queues default:")
        job = work.submit_running(calls, gate.spec(name="second"))
        await screen.until("second", "running")
        gate.open()
        work.end_of(calls, job)
        text = await screen.until("first", without=("second",))
    assert "live jobs: 1" in text


async def test_the_text_filter_when_words_are_typed_then_only_rows_with_them_are_shown(
    shared: DaemonProcess, calls: stoker.Client
) -> None:
    work.submit(calls, later("apple", labels={"team": "red"}))
    work.submit(calls, later("pear", labels={"team": "blue"}))
    async with opened(shared) as screen:
        await screen.until("apple", "pear")
        await screen.press("slash")
        await screen.type("team=blue")
        await screen.until("pear", "1 of 2", without=("apple",))
        await screen.press("enter", "escape")
        await screen.until("apple", "pear")


async def test_the_filter_when_it_names_a_queue_then_the_daemon_is_asked(
    shared: DaemonProcess, calls: stoker.Client
) -> None:
    calls.call("queue.set", {"name": "bulk"})
    work.submit(calls, later("apple", queue="bulk"))
    work.submit(calls, later("pear"))
    async with opened(shared) as screen:
        await screen.until("apple", "pear")
        await screen.press("slash")
        await screen.type("queue:bulk")
        await screen.press("enter")
        await screen.until("apple", without=("pear",))
        work.submit(calls, later("cherry", queue="bulk"))
        work.submit(calls, later("plum"))
        await screen.until("apple", "cherry", without=("plum",))
        await screen.press("slash")
        await screen.type("queue:bulkx")
        await screen.press("enter")
        await screen.until("there is no queue", without=("apple",))


async def test_the_filter_when_a_label_has_no_value_then_a_notice_says_how_to_type_it(
    shared: DaemonProcess, calls: stoker.Client
) -> None:
    async with opened(shared) as screen:
        await screen.press("slash")
        await screen.type("label:team")
        await screen.press("enter")
        await screen.until("label:K=V")


async def test_ended_jobs_when_there_are_more_than_a_page_then_the_rest_comes_by_scrolling(
    daemon: DaemonProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_list, "PAGE", 15)
    with daemon.client() as calls:
        for job in work.submit_many(calls, [later(f"ended-{number}") for number in range(60)]):
            calls.cancel(job["id"])
        async with opened(daemon) as screen:
            await screen.press("f")
            await screen.until("Which jobs?")
            await screen.press("down", "down", "down", "down", "down", "enter")
            await screen.until("ended-59", "cancelled")
            assert "ended-0:" not in screen.text
            for _ in range(6):
                await screen.press("end")
                await screen.pilot.pause()
            await until_async(lambda: len(screen.app.query_one("#job-grid").keys) >= 60)  # type: ignore[attr-defined]
            work.submit(calls, {"command": "/bin/false", "name": "newest"})
            await screen.press("home")
            await screen.until("newest", "failed", "exit 1")


async def test_the_order_when_a_header_is_clicked_then_it_turns_and_the_cursor_stays(
    shared: DaemonProcess, calls: stoker.Client
) -> None:
    for name, priority in (("low", 1), ("high", 9), ("middle", 5)):
        work.submit(calls, later(name, priority=priority))
    async with opened(shared, columns=120) as screen:
        await screen.until("low", "high", "middle")
        await screen.press("home")
        grid = screen.app.query_one("#job-grid")
        marked = grid.key  # type: ignore[attr-defined]
        header = screen.lines[grid.region.y]
        offset = (header.index("PRIO"), 0)
        await screen.pilot.click("#job-grid", offset=offset)
        text = await screen.until("PRIO▼")
        assert text.index("high:") < text.index("middle:") < text.index("low:")
        await screen.pilot.click("#job-grid", offset=offset)
        text = await screen.until("PRIO▲")
        assert text.index("low:") < text.index("middle:") < text.index("high:")
        assert grid.key == marked  # type: ignore[attr-defined]


async def test_a_cancel_when_it_is_confirmed_then_the_reason_is_recorded(
    shared: DaemonProcess, calls: stoker.Client
) -> None:
    job = work.submit(calls, later("doomed"))
    async with opened(shared) as screen:
        await screen.until("doomed")
        await screen.press("c")
        await screen.until(f"Cancel job {job}?", "why, for the history")
        await screen.type("disk is full")
        await screen.press("enter")
        await screen.until(f"job {job} cancelled", without=("doomed",))
    note = calls.history(job)["changes"][-1]["note"]
    assert (calls.get(job)["state"], note) == ("cancelled", "disk is full")


async def test_a_cancel_when_it_is_not_confirmed_then_nothing_is_changed(
    shared: DaemonProcess, calls: stoker.Client
) -> None:
    job = work.submit(calls, later("spared"))
    async with opened(shared) as screen:
        await screen.until("spared")
        await screen.press("c")
        await screen.until(f"Cancel job {job}?")
        await screen.press("escape")
        await screen.until("spared", without=("Cancel job",))
    assert calls.get(job)["state"] == "waiting"


async def test_an_action_when_many_jobs_are_selected_then_one_answer_confirms_all(
    shared: DaemonProcess, calls: stoker.Client
) -> None:
    jobs = [work.submit(calls, later(f"many-{number}")) for number in range(5)]
    async with opened(shared) as screen:
        await screen.until("many-4")
        await screen.press("home", "space", "space", "space")
        await screen.until("3 selected")
        await screen.press("h")
        await screen.until("Hold 3 jobs?", "many-0", "many-2")
        await screen.press("enter")
        await screen.until("3 jobs held", without=("selected",))
        await until_async(lambda: [calls.get(job)["state"] for job in jobs] == ["held"] * 3 + ["waiting"] * 2)
        await screen.press("asterisk", "u", "enter")
        await screen.until("3 jobs released")


async def test_an_action_when_the_daemon_refuses_it_then_a_notice_says_why(
    shared: DaemonProcess, calls: stoker.Client
) -> None:
    job = work.submit(calls, later("waits"))
    async with opened(shared) as screen:
        await screen.until("waits")
        await screen.press("r")
        await screen.until(f"Retry job {job}?")
        await screen.press("enter")
        await screen.until("waiting", f"job {job}")
        await until_async(lambda: "error" in {note.severity for note in screen.app._notifications})
    assert calls.get(job)["state"] == "waiting"


async def test_details_when_a_job_failed_then_they_say_why_and_follow_its_retry(
    shared: DaemonProcess, calls: stoker.Client
) -> None:
    job = work.submit(calls, work.shell("exit 3", name="fails"))
    work.end_of(calls, job)
    async with opened(shared, lines=60) as screen:
        await screen.press("f", *["down"] * 4, "enter")
        await screen.until("fails", "exit 3")
        await screen.press("enter")
        text = await screen.until(f"job {job} failed", "attempts", "history", "exit 3")
        assert "on orphan" in text
        await screen.press("r", "enter")
        await screen.until("retry  ", "2 so far")
        await screen.press("escape")
        await screen.until("failed jobs")


async def test_names_when_they_hold_escapes_or_marks_then_none_reaches_the_screen(
    shared: DaemonProcess, calls: stoker.Client
) -> None:
    job = work.submit(calls, later(EVIL, labels={"k": EVIL}))
    async with opened(shared) as screen:
        await screen.until("evil ^[[2J")
        seen = [screen.text]
        await screen.press("enter")
        seen.append(await screen.until(f"job {job} waiting", "why"))
        await screen.press("c")
        seen.append(await screen.until("Cancel job"))
        await screen.press("enter")
        seen.append(await screen.until("cancelled"))
    assert not [char for text in seen for char in text if not char.isprintable() and char != "\n"]


async def test_queues_when_one_is_paused_and_resumed_then_the_daemon_does_it(
    shared: DaemonProcess, calls: stoker.Client
) -> None:
    def paused() -> bool:
        return next(queue["paused"] for queue in calls.status()["queues"] if queue["name"] == "default")

    async with opened(shared) as screen:
        await screen.press("3")
        await screen.until("MAX RUNNING", "default")
        await screen.press("end", "p")
        await screen.until("Pause queue default?")
        await screen.press("enter")
        await screen.until("queue default paused", "paused")
        assert paused()
        await screen.press("u")
        await screen.until("Resume queue default?")
        await screen.press("enter")
        await until_async(lambda: not paused())


async def test_workflow_when_it_has_many_steps_then_the_row_of_a_group_leads_to_them(
    shared: DaemonProcess, calls: stoker.Client
) -> None:
    steps = {"work": {**flows.step("exit 0"), "each": [f"i{number}" for number in range(25)]}}
    workflow = flows.sent_flow(calls, steps | {"end": flows.step("exit 4", "work")}, name="wide")
    flows.settled(calls, workflow)
    async with opened(shared) as screen:
        await screen.press("2")
        await screen.until("wide", "failed", "25/26")
        await screen.press("enter")
        await screen.until("work x25", "25/25 done", "exit 4")
        await screen.press("enter")
        await screen.until("steps of work", "work[i0]", "work[i3]")
        await screen.press("escape")
        await screen.until("work x25")


async def test_workflows_when_one_is_opened_then_its_steps_lead_to_their_jobs(
    shared: DaemonProcess, calls: stoker.Client
) -> None:
    steps = {"build": flows.step("exit 0"), "test": flows.step("exit 4", "build")}
    workflow = flows.sent_flow(calls, steps, name="nightly")
    flows.settled(calls, workflow)
    async with opened(shared) as screen:
        await screen.press("2")
        await screen.until("nightly", "failed", "1/2")
        await screen.press("enter")
        await screen.until(f"workflow {workflow} nightly", "build", "test", "exit 4")
        await screen.press("end", "enter")
        await screen.until("failed", "exited with 4", "why")
        await screen.press("escape", "escape")
        await screen.until("2 Workflows", "nightly")


async def test_many_jobs_when_all_are_selected_then_one_action_reaches_all_of_them(
    shared: DaemonProcess, calls: stoker.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_list, "PAGE", 50)
    work.submit_many(calls, [later(f"job-{number}") for number in range(120)])
    async with opened(shared) as screen:
        await screen.until("live jobs: 120", without=("loading",))
        await screen.press("end")
        await screen.until("job-119")
        await screen.press("asterisk", "c")
        await screen.until("Cancel 120 jobs?", "… and 117 more")
        await screen.press("enter")
        await screen.until("120 jobs cancelled", "live jobs: 0")


async def test_the_terminal_when_it_is_too_small_then_the_size_it_needs_is_shown(
    shared: DaemonProcess, calls: stoker.Client
) -> None:
    work.submit(calls, later("small"))
    async with opened(shared, columns=40, lines=10) as screen:
        await screen.until("The terminal is too small: 40x10")
        await screen.pilot.resize_terminal(80, 24)
        await screen.until("small", "Quit", without=("too small",))


async def test_help_when_it_is_asked_for_then_it_names_every_key(shared: DaemonProcess) -> None:
    async with opened(shared, lines=50) as screen:
        await screen.press("question_mark")
        await screen.until("Keys", "Skip", "Release", "Hold", "Select", "Filter", "Quit", "Mouse")
        await screen.press("escape")
        await screen.until("live jobs", without=("Mouse",))


async def test_the_daemon_when_it_is_killed_then_a_banner_stays_until_it_is_back(
    daemon: DaemonProcess, gate: work.Gate
) -> None:
    with daemon.client() as client:
        work.submit(client, later("before"))
        lost = work.submit_running(client, gate.spec(name="lost"))
    async with opened(daemon) as screen:
        await screen.until("before", "lost")
        daemon.kill9()
        await screen.until("The daemon is away", "before")
        await screen.press("c", "enter")
        await screen.until("no daemon answers")
        daemon.start()
        with daemon.client() as client:
            work.submit(client, later("after"))
            await screen.until("before", "after", without=("The daemon is away", "lost"))
            assert work.end_of(client, lost) == ("failed", "orphaned")


def test_threads_when_they_were_never_started_then_stopping_them_is_harmless(tmp_path: Path) -> None:
    asker = background.Asker(str(tmp_path / "nobody"), lambda handle: handle())

    asker.stop()
    asker.stop()


def test_a_thread_when_it_has_a_bug_then_the_screen_gets_it(shared: DaemonProcess) -> None:
    caught: SimpleQueue[Exception] = SimpleQueue()

    def tell(handle: Callable[[], object]) -> None:
        try:
            handle()
        except ZeroDivisionError as bug:
            caught.put(bug)

    asker = background.Asker(str(shared.socket), tell)
    asker.start()
    asker.ask(background.AskedCall(lambda _: 1 // 0, print, print))

    assert isinstance(caught.get(timeout=DEADLINE_S), ZeroDivisionError)
    asker.stop()
