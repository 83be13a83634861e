"""When the host counts as idle and as charging, and the words for what keeps it from that."""

from __future__ import annotations

import pytest

from stoker.core.host_state import (
    NOT_ASKED,
    Battery,
    Idleness,
    IdlePolicy,
    InputState,
    Power,
    forgotten,
    idle_words,
    observe_idle,
    observe_power,
    power_words,
)

POLICY = IdlePolicy(cpu_percent=20, for_ms=60_000, input=True)
NO_INPUT = IdlePolicy(cpu_percent=20, for_ms=60_000, input=False)
AWAY, THERE, UNKNOWN = (
    InputState(idle=True),
    InputState(idle=False),
    InputState(idle=None, problem="this host has no D-Bus"),
)
Looks = list[tuple[int, float | None, InputState]]


def after(looks: Looks, policy: IdlePolicy = POLICY) -> Idleness:
    """The idleness after looks at these times (ms), with the CPU and the sessions."""
    idleness = Idleness()
    for at, cpu, sessions in looks:
        idleness = observe_idle(policy, idleness, cpu, sessions, at)
    return idleness


@pytest.mark.parametrize(
    ("looks", "holds"),
    [
        ([(0, 5, AWAY)], False),
        ([(0, 5, AWAY), (59_999, 5, AWAY)], False),
        ([(0, 5, AWAY), (60_000, 5, AWAY)], True),
        ([(0, 5, AWAY), (30_000, 20, AWAY), (60_000, 5, AWAY)], False),
        ([(0, 5, AWAY), (30_000, 20, AWAY), (31_000, 5, AWAY), (91_000, 5, AWAY)], True),
        ([(0, 5, AWAY), (60_000, 20, AWAY)], False),
        ([(0, 5, AWAY), (60_000, None, AWAY)], False),
        ([(0, 5, THERE), (60_000, 5, THERE)], False),
        ([(0, 5, THERE), (60_000, 5, AWAY)], False),
        ([(0, 5, UNKNOWN), (60_000, 5, UNKNOWN)], True),
        ([(0, 5, NOT_ASKED), (60_000, 5, THERE)], False),
        ([(0, 5, NOT_ASKED), (60_000, 5, NOT_ASKED)], False),
        ([(0, 5, NOT_ASKED), (60_000, 5, AWAY)], True),
    ],
)
def test_idle_when_the_host_was_looked_at_then_only_a_long_calm_counts(looks: Looks, *, holds: bool) -> None:
    assert after(looks).holds is holds


def test_idle_when_input_does_not_count_then_the_cpu_decides() -> None:
    assert after([(0, 5, THERE), (60_000, 5, THERE)], NO_INPUT).holds


def test_idle_when_no_sample_came_for_a_while_then_the_calm_begins_anew() -> None:
    calm = after([(0, 5, AWAY), (60_000, 5, AWAY)])

    again = observe_idle(POLICY, forgotten(calm), 5, AWAY, 999_000)

    assert (calm.holds, again.holds, again.calm_since) == (True, False, 999_000)


@pytest.mark.parametrize(
    ("readings", "holds"),
    [
        ([], False),
        ([None], True),
        ([Battery(plugged=True)], False),
        ([Battery(plugged=True), Battery(plugged=True)], True),
        ([Battery(plugged=True), Battery(plugged=False), Battery(plugged=True)], False),
        ([Battery(plugged=True), Battery(plugged=True), Battery(plugged=False)], False),
        ([Battery(plugged=True), Battery(plugged=True), Battery(plugged=None)], False),
    ],
)
def test_charging_when_the_battery_was_read_then_it_counts_from_the_second_reading(
    readings: list[Battery | None], *, holds: bool
) -> None:
    power = Power()
    for battery in readings:
        power = observe_power(power, battery)

    assert power.holds is holds


@pytest.mark.parametrize(
    ("idleness", "policy", "words"),
    [
        (
            Idleness(),
            POLICY,
            "CPU not measured yet, must be below 20 % for 1m00s; sessions not checked yet",
        ),
        (
            Idleness(cpu=43, input=THERE),
            POLICY,
            "CPU 43 %, must be below 20 % for 1m00s; its sessions are in use, must be unused",
        ),
        (
            Idleness(cpu=3, input=AWAY, calm_since=40_000),
            POLICY,
            "CPU 3 %, must be below 20 % for 1m00s, has been for 30.0s; its sessions are unused",
        ),
        (
            Idleness(cpu=3, input=UNKNOWN, calm_since=0, holds=True),
            POLICY,
            "CPU 3 %, below 20 % for 1m00s; CPU alone decides: this host has no D-Bus",
        ),
        (Idleness(cpu=3, calm_since=0, holds=True), NO_INPUT, "input does not count ([idle] input)"),
    ],
)
def test_words_when_idleness_is_explained_then_values_and_limits_are_named(
    idleness: Idleness, policy: IdlePolicy, words: str
) -> None:
    assert words in idle_words(policy, idleness, 70_000)


@pytest.mark.parametrize(
    ("power", "words"),
    [
        (Power(), "not checked yet"),
        (Power(holds=True), "no battery, counts as charging"),
        (Power(battery=Battery(plugged=False, percent=61.4)), "running on battery, 61 %"),
        (Power(battery=Battery(plugged=True)), "on external power"),
        (Power(battery=Battery(plugged=None)), "its power supplies do not report whether it charges"),
    ],
)
def test_words_when_the_power_is_explained_then_source_and_charge_are_named(power: Power, words: str) -> None:
    assert power_words(power) == words
