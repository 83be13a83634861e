"""The error classes: one for each cause, codes that programs depend on, and the form on the wire."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from stoker.core import errors
from stoker.core.errors import AlreadyFinished, AttemptMayLive, NotAllowed, QueueFull, StokerError


def tree(root: type[StokerError]) -> Iterator[type[StokerError]]:
    yield root
    for branch in root.__subclasses__():
        yield from tree(branch)


OURS = [error for error in tree(StokerError) if error.__module__ == errors.__name__]
EXIT_STATUSES = {1, 64, 65, 69, 70, 73, 74, 75, 77, 78}


def test_codes_when_listed_then_each_belongs_to_one_class() -> None:
    assert [code for code, times in Counter(error.code for error in OURS).items() if times > 1] == []


@pytest.mark.parametrize("error", OURS, ids=lambda error: error.__name__)
def test_error_when_it_is_raised_then_its_class_says_all_that_a_program_needs(error: type[StokerError]) -> None:
    assert error.code.replace("_", "").isalpha()
    assert error.code.islower()
    assert error.exit_status in EXIT_STATUSES
    assert -32_700 <= error.rpc_code <= -32_000
    assert not error.transient or error.exit_status in (69, 75)  # a retry helps: the client is not at fault


def test_wire_when_there_is_a_hint_and_details_then_both_are_data() -> None:
    error = QueueFull("no room", hint="wait", retry_after_ms=5)

    assert str(error) == "no room"
    assert error.to_wire() == {
        "code": -32_000,
        "message": "no room",
        "data": {"code": "queue_full", "transient": True, "hint": "wait", "retry_after_ms": 5},
    }


def test_error_when_it_is_kept_as_a_value_then_it_holds_no_frame() -> None:
    with pytest.raises(QueueFull) as caught:
        raise QueueFull("no room") from KeyError("bulk")

    kept = caught.value.as_value()

    assert str(kept) == "no room"
    assert (kept.__traceback__, kept.__context__, kept.__cause__) == (None, None, None)


def test_wire_when_there_is_no_hint_then_the_field_is_left_out() -> None:
    assert StokerError("oh").to_wire()["data"] == {"code": "internal", "transient": False}


@pytest.mark.parametrize("error", [AlreadyFinished, AttemptMayLive])
def test_verb_errors_when_caught_then_each_is_a_no_of_its_own(error: type[StokerError]) -> None:
    assert issubclass(error, NotAllowed)
    assert error.code != NotAllowed.code


def test_within_when_a_part_of_a_request_is_wrong_then_its_place_precedes_the_path() -> None:
    error = QueueFull("priority: too high", hint="lower it", path="priority", queue="bulk").within("jobs[3]")

    assert type(error) is QueueFull
    assert (error.message, error.hint) == ("jobs[3].priority: too high", "lower it")
    assert error.details == {"path": "jobs[3].priority", "queue": "bulk"}


def test_within_when_the_whole_part_is_wrong_then_its_place_is_the_path() -> None:
    error = QueueFull("no room").within("jobs[0]")

    assert (error.message, error.details) == ("jobs[0]: no room", {"path": "jobs[0]"})
