"""A long crontab through a year with both changes of the clocks of three zones: every slot of cronsim's, each once.

The planner is woken late by up to an hour, as by restarts, and is asked again each time from what it has settled.
"""

from __future__ import annotations

import random
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim
from msgspec.structs import replace

from stoker.core.requests import JobWork
from stoker.core.schedule.crontab import read_crontab
from stoker.core.schedule.model import Misfire
from stoker.core.schedule.request import ScheduleParams, checked
from stoker.core.schedule.slots import due_at, due_slots

HOUR_MS = 3_600_000
START = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp() * 1_000)
END = int(datetime(2027, 1, 1, tzinfo=UTC).timestamp() * 1_000)
ZONES = ("Europe/Berlin", "America/New_York", "Australia/Lord_Howe")  # the last one changes by half an hour
CRONTAB = """\
25 6 * * * root run-parts /etc/cron.daily
47 6 * * 7 root run-parts /etc/cron.weekly
52 6 1 * * root run-parts /etc/cron.monthly
30 2 * * * root backup
0,30 1-3 * * * root twice-an-hour in the night
15 */6 * * * root four-times
0 2 L * * root month-end
5 4 * * mon-fri root workdays
0 12 1,15 * * root twice-a-month
30 1 * * sun root sundays
59 23 31 12 * root year-end
@daily root daily
@weekly root weekly
10 3 * * 1#1 root first-monday
"""
JOBS = read_crontab(CRONTAB, users=True).jobs
ALIASES = {"@daily": "0 0 * * *", "@weekly": "0 0 * * 0"}


def planned(timing: str, zone: str, dice: random.Random) -> list[int]:
    sent = ScheduleParams(
        name="year", timing=timing, zone=zone, job=JobWork(command="true"), misfire=Misfire.ALL, catch_up_ms=2 * HOUR_MS
    )
    current = checked(sent, 0, START)
    submitted: list[int] = []
    while (due := due_at(current)) is not None and due < END:
        slots = due_slots(current, due + dice.randint(0, HOUR_MS))
        submitted += slots.slots
        current = replace(current, passed=slots.passed, next_slot=slots.following)
    return [slot for slot in submitted if slot < END]


def of_cronsim(timing: str, zone: str) -> list[int]:
    slots: dict[int, None] = {}
    for moment in CronSim(timing, datetime.fromtimestamp(START / 1_000, ZoneInfo(zone))):
        slot = int(moment.timestamp() * 1_000)
        if slot >= END:
            break
        slots[slot] = None  # where hours are left out, cronsim gives a time twice
    return [*slots]


@pytest.mark.no_cover  # it would take three times as long, and reaches no line of its own
@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("timing", [job.timing for job in JOBS])
def test_crontab_when_a_year_passes_then_each_slot_is_submitted_once(timing: str, zone: str, seed: int) -> None:
    assert planned(timing, zone, random.Random(seed)) == of_cronsim(ALIASES.get(timing, timing), zone)
