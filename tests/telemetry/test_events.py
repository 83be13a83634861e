"""The names of the log events: alerts rely on them, so they must not change."""

from __future__ import annotations

import re

from stoker.telemetry.events import LogEvent, Severity


def test_events_when_named_by_the_design_then_they_exist_with_their_severity() -> None:
    promised = {
        "task_timeout": Severity.WARNING,
        "task_failed": Severity.WARNING,
        "worker_unresponsive": Severity.WARNING,
        "resource_exhausted": Severity.WARNING,
        "dependency_cycle_detected": Severity.WARNING,
        "workflow_failed": Severity.WARNING,
        "job_orphaned": Severity.WARNING,
        "queue_throttled": Severity.WARNING,
    }
    assert {event.value: event.severity for event in LogEvent if event.value in promised} == promised


def test_events_when_listed_then_each_value_is_its_name_in_lower_case() -> None:
    assert all(event.value == event.name.lower() for event in LogEvent)
    assert all(re.fullmatch("[a-z]+(_[a-z]+)*", event) for event in LogEvent)
