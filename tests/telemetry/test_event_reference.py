"""Every event has a meaning; what needs a person says what to do, in commands that exist."""

from __future__ import annotations

import re

import pytest

from stoker.cli import main
from stoker.config.settings import SECTIONS
from stoker.telemetry.event_reference import MEANINGS
from stoker.telemetry.events import LogEvent, Severity
from tests.support import event_page

COMMANDS = {name for rows in main.COMMANDS.values() for name in rows}


def test_reference_when_an_event_exists_then_it_has_a_meaning() -> None:
    assert list(MEANINGS) == list(LogEvent)


@pytest.mark.parametrize("event", LogEvent)
def test_reference_when_an_event_needs_a_person_then_it_has_a_remedy(event: LogEvent) -> None:
    assert bool(MEANINGS[event].remedy) == (event.severity >= Severity.WARNING)


@pytest.mark.parametrize("event", LogEvent)
def test_reference_when_a_remedy_names_a_command_or_a_setting_then_it_exists(event: LogEvent) -> None:
    text = " ".join(MEANINGS[event])
    for typed in re.findall(r"`stoker ([^`]*)`", text):
        words = [word for word in typed.split() if re.fullmatch("[a-z-]+", word)]
        name = " ".join(words[:2]) if " ".join(words[:2]) in COMMANDS else words[0]
        assert name in COMMANDS
        options = {spelled for option in main.load(main._rows()[name][0]).options for spelled in option.names}
        assert {word for word in typed.split() if word.startswith("--")} <= options
    for section, key in re.findall(r"`\[([a-z]+)\](?: ([a-z_]+))?`", text):
        assert section in SECTIONS
        assert not key or key in SECTIONS[section].__struct_fields__


def test_page_when_events_change_then_it_is_current() -> None:
    assert event_page.PAGE.read_text() == event_page.page(), "python -m tests.support.event_page writes it"
