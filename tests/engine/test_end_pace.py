"""Reports that may wait share a turn with what comes next; a request or a report in a hurry ends their wait."""

from __future__ import annotations

import asyncio

import pytest

from stoker.core.clock import SystemClock
from stoker.core.job import events as ev
from stoker.engine.end_pace import MANY_RUNS, MOST_PATIENCE_S, EndPace
from stoker.engine.inbox import Inbox, Message, RequestMessage
from stoker.engine.memory import LiveState
from stoker.engine.reports import BEGAN_PATIENCE_S, Reports
from stoker.executors.base import Report
from tests.support.jobs import exited

BEGAN = ev.Began(identity=None, boot_ms=1)
ENDED = ev.Ended(outcome=exited())
DELIVERED = ev.Delivered(delivered=True)
REFUSED = ev.Refused(why="its directory is there")


class Patient(Message):
    patience_s = 3_600.0


def pace_of(open_runs: int, gap_s: float) -> EndPace:
    """After many ends with this time between them, all of which had their turns."""
    pace = EndPace(range(open_runs))
    for number in range(100):
        pace.note(1, number * gap_s)
        pace.take(1)
    return pace


async def taken_after(inbox: Inbox, *messages: Message) -> list[Message]:
    """The messages of a turn that waited for company while these came."""
    waiting = asyncio.create_task(inbox.company(0.0))
    for message in messages:
        await asyncio.sleep(0)
        assert not waiting.done()
        inbox.post(message)
    await waiting
    return inbox.take(100)


@pytest.mark.parametrize("hurried", [Message, RequestMessage])
async def test_patient_message_when_another_has_no_patience_then_both_go(hurried: type[Message]) -> None:
    inbox, patient, last = Inbox(), Patient(), hurried()
    inbox.post(patient)

    assert await taken_after(inbox, last) == [patient, last]


async def test_patient_message_when_no_other_comes_then_it_goes_once_its_time_is_over() -> None:
    inbox, brief = Inbox(), Patient()
    brief.patience_s = 0.001
    inbox.post(brief)

    await inbox.company(0.0)

    assert inbox.take(100) == [brief]


async def test_patient_message_when_an_earlier_turn_left_it_then_it_waits_no_longer() -> None:
    inbox = Inbox()
    for _ in range(2):
        inbox.post(Patient())

    inbox.take(1)
    await inbox.company(0.0)

    assert len(inbox) == 1


async def test_patient_message_when_it_was_put_back_then_it_waits_no_longer() -> None:
    inbox = Inbox()
    inbox.post(Patient())

    inbox.put_back(inbox.take(1))
    await inbox.company(0.0)

    assert len(inbox) == 1


def test_end_when_ends_come_fast_and_runs_are_open_then_it_waits_for_about_one_more() -> None:
    pace = pace_of(open_runs=MANY_RUNS, gap_s=0.002)
    pace.note(1, 0.2)

    assert pace.patience_s == pytest.approx(0.002, rel=0.1)


def test_end_when_no_other_run_is_open_then_it_does_not_wait() -> None:
    pace = pace_of(open_runs=MANY_RUNS, gap_s=0.002)
    pace.note(MANY_RUNS, 0.202)

    assert pace.patience_s == 0


@pytest.mark.parametrize("gap_s", [1.5 * MOST_PATIENCE_S, 3_600.0])
def test_end_when_ends_are_rare_then_it_does_not_wait(gap_s: float) -> None:
    assert pace_of(open_runs=MANY_RUNS, gap_s=gap_s).patience_s == 0


def test_end_when_few_runs_are_open_then_it_does_not_wait() -> None:
    pace = pace_of(open_runs=MANY_RUNS - 1, gap_s=0.002)
    pace.note(1, 0.2)

    assert pace.patience_s == 0


def test_end_when_it_is_the_first_then_it_does_not_wait() -> None:
    pace = EndPace(range(2))
    pace.note(1, 0.0)

    assert pace.patience_s == 0


@pytest.mark.parametrize(
    ("events", "patience_s"),
    [
        ([BEGAN], BEGAN_PATIENCE_S),
        ([ENDED], 0.002),
        ([BEGAN, ENDED], 0.002),
        ([DELIVERED], 0),
        ([BEGAN, DELIVERED], 0),
        ([ENDED, REFUSED], 0),
    ],
)
def test_reports_when_made_then_only_begins_and_ends_wait(events: list[ev.Event], patience_s: float) -> None:
    pace = pace_of(open_runs=9, gap_s=0.002)
    reports = [Report(f"{number}.1.{number:016x}", event) for number, event in enumerate(events, start=1)]  # type: ignore[arg-type]

    made = Reports(reports, SystemClock(), LiveState({}, {}, 0, 0), pace, 0.2)

    assert made.patience_s == pytest.approx(patience_s, rel=0.1)
