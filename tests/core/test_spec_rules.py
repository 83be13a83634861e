"""Every rule for specs refuses one request at least, and no ordinary one."""

from __future__ import annotations

from typing import Any

import pytest

from stoker.core.job.limits import Limits
from stoker.core.job.model import ExecutionMode, SupersedeRunning
from stoker.core.job.spec_rules import RULES, contradictions, contradictions_of_defaults
from tests.support.jobs import spec

HANDLER = {"execution_mode": ExecutionMode.IN_PROCESS}

ON_CLUSTER = {"execution_mode": ExecutionMode.CLUSTER}
BROKEN: list[tuple[dict[str, Any], str, str]] = [
    (HANDLER | {"env": {"A": "b"}}, "env", "no effect on a handler"),
    (HANDLER | {"stdin": "x"}, "stdin", "no effect on a handler"),
    (HANDLER | {"limits": Limits(open_files=9)}, "limits", "no effect on a handler"),
    (HANDLER | {"nice": 3}, "nice", "no effect on a handler"),
    (HANDLER | {"survive": True}, "survive", "no effect on a handler"),
    (HANDLER | {"secrets": ("TOKEN",)}, "secrets", "no effect on a handler"),
    (HANDLER | {"warn_signal": 10, "warn_before_ms": 1, "timeout_ms": 9}, "warn_signal", "no effect on a handler"),
    (HANDLER | {"notify": True}, "notify", "no process that could report"),
    (HANDLER | {"heartbeat_ms": 1}, "heartbeat_ms", "no process that could report"),
    ({"base_delay_ms": 7_200_000}, "base_delay_ms", "2h is more than max_delay_ms, 1h"),
    ({"base_delay_ms": 2, "max_delay_ms": 1}, "base_delay_ms", "2ms is more than max_delay_ms, 1ms"),
    ({"warn_signal": 9, "warn_before_ms": 1, "timeout_ms": 9}, "warn_signal", "SIGKILL cannot warn"),
    ({"warn_signal": 19, "warn_before_ms": 1, "timeout_ms": 9}, "warn_signal", "SIGSTOP cannot warn"),
    ({"warn_signal": 10, "warn_before_ms": 1}, "warn_signal", "without a time limit to warn of"),
    ({"warn_signal": 10, "deadline": 1}, "warn_signal", "only when the time limit is reached"),
    ({"warn_before_ms": 1, "timeout_ms": 9}, "warn_before_ms", "no effect without warn_signal"),
    (
        {"warn_before_ms": 9, "timeout_ms": 9, "warn_signal": 10},
        "warn_before_ms",
        "9ms is not less than timeout_ms, 9ms",
    ),
    ({"supersede_running": SupersedeRunning.STOP}, "supersede_running", "no effect without supersede_key"),
    ({"debounce_ms": 5}, "debounce_ms", "no effect without supersede_key"),
    ({"debounce_max_ms": 5}, "debounce_max_ms", "no effect without supersede_key"),
    (
        {"debounce_ms": 5, "debounce_max_ms": 4, "supersede_key": "k"},
        "debounce_max_ms",
        "4ms is less than debounce_ms, 5ms",
    ),
    (
        {"debounce_ms": 5, "supersede_key": "k", "ttl_ms": 5},
        "debounce_ms",
        "5ms is not less than ttl_ms, 5ms",
    ),
    ({"checkpoint_exit_code": 0}, "checkpoint_exit_code", "0 is among success_exit_codes, too"),
    (
        {"checkpoint_exit_code": 75, "no_retry_exit_codes": (64, 75)},
        "checkpoint_exit_code",
        "75 is among no_retry_exit_codes, too",
    ),
    ({"unresponsive_warn_ms": 1}, "unresponsive_warn_ms", "no effect without heartbeat_ms"),
    ({"unresponsive_kill_ms": 1}, "unresponsive_kill_ms", "no effect without heartbeat_ms"),
    ({"heartbeat_ms": 30_000}, "heartbeat_ms", "30s is not less than unresponsive_warn_ms, 30s"),
    ({"heartbeat_ms": 5, "unresponsive_kill_ms": 5}, "heartbeat_ms", "5ms is not less than unresponsive_kill_ms, 5ms"),
    (
        {"heartbeat_ms": 1, "unresponsive_warn_ms": 240_000},
        "unresponsive_warn_ms",
        "4m is more than unresponsive_kill_ms, 3m",
    ),
    ({**ON_CLUSTER, "survive": True}, "survive", "always outlives the daemon"),
    ({**ON_CLUSTER, "notify": True}, "notify", "a node of a cluster cannot reach"),
    ({**ON_CLUSTER, "heartbeat_ms": 1}, "heartbeat_ms", "a node of a cluster cannot reach"),
    ({**ON_CLUSTER, "secrets": {"TOKEN": "0"}}, "secrets", "does not leave this host"),
]


@pytest.mark.parametrize(("asked", "field", "problem"), BROKEN)
def test_spec_when_a_rule_is_broken_then_the_error_has_field_values_and_hint(
    asked: dict[str, Any], field: str, problem: str
) -> None:
    matching = [one for one in contradictions(spec(**asked), asked) if problem in one.message]

    assert [one.details for one in matching] == [{"path": field}]
    assert matching[0].message.startswith(f"{field}: ")
    assert matching[0].hint


def test_rules_when_counted_then_each_is_broken_above() -> None:
    fired = {
        id(next(rule for rule in RULES if rule.field == field and rule.broken(spec(**asked), asked)))
        for asked, field, _ in BROKEN
    }

    assert fired == {id(rule) for rule in RULES}


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"max_delay_ms": 1},
        {"base_delay_ms": 1, "max_delay_ms": 1},
        {"warn_signal": 10, "warn_before_ms": 8, "timeout_ms": 9},
        {"warn_signal": 10, "warn_before_ms": 8, "deadline": 1},
        {"warn_before_ms": 0},
        {"checkpoint_exit_code": 75},
        {"checkpoint_exit_code": None},
        {"heartbeat_ms": 10_000},
        {"heartbeat_ms": 1, "unresponsive_kill_ms": 5},
        {"heartbeat_ms": 1, "unresponsive_warn_ms": 180_000},
        HANDLER,
    ],
)
def test_spec_when_every_field_has_an_effect_then_it_is_accepted(asked: dict[str, Any]) -> None:
    assert list(contradictions(spec(**asked), asked)) == []


def test_spec_when_a_default_of_its_queue_has_no_effect_then_it_is_accepted() -> None:
    by_queue = {"nice": 3, "survive": True, "base_delay_ms": 9, "unresponsive_kill_ms": 1}

    assert list(contradictions(spec(**HANDLER, **by_queue, max_delay_ms=1), {"max_delay_ms"}, by_queue)) == []


def test_spec_when_its_queue_contradicts_it_then_it_is_refused() -> None:
    torn = spec(checkpoint_exit_code=3, success_exit_codes=(3,))

    (contradiction,) = contradictions(torn, ["success_exit_codes"], ["checkpoint_exit_code"])

    assert "is among success_exit_codes" in contradiction.message


def test_defaults_when_they_contradict_each_other_then_each_is_reported_once() -> None:
    by_queue = {"base_delay_ms": 9, "max_delay_ms": 1, "heartbeat_ms": 5, "unresponsive_kill_ms": 5, "nice": 3}

    found_once = contradictions_of_defaults(spec(**by_queue), by_queue)

    assert [one.details["path"] for one in found_once] == ["base_delay_ms", "heartbeat_ms"]
