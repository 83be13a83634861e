"""Values that a JobParams refuses by itself: too long argv and environments, and wrong names."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from stoker.core.command_limits import DANGEROUS_ENV, MAX_ARGV_BYTES, MAX_VARIABLES
from stoker.core.errors import InvalidParams
from stoker.core.job.events import VERBS
from stoker.core.raw_bytes import AnyText
from stoker.core.requests import JobFilter, JobParams, Verb


def refusal(**fields: object) -> InvalidParams:
    with pytest.raises(InvalidParams) as refused:
        JobParams(**({"command": "true"} | fields))  # type: ignore[arg-type]
    return refused.value


def test_verbs_when_listed_then_each_has_an_event() -> None:
    assert {verb.value for verb in Verb} == set(VERBS)


def test_params_when_only_a_command_is_sent_then_all_other_fields_are_unset() -> None:
    sent = JobParams(command="true")

    assert msgspec.json.encode(sent) == b'{"command":"true"}'


@pytest.mark.parametrize(
    ("args", "fits"),
    [
        (("a", "b"), True),
        (("x" * 60_000, "y" * (MAX_ARGV_BYTES - 60_006)), True),
        (("x" * 60_000, "y" * (MAX_ARGV_BYTES - 60_005)), False),
        (("\N{EURO SIGN}" * (MAX_ARGV_BYTES // 3 - 2),), True),
        (("\N{EURO SIGN}" * (MAX_ARGV_BYTES // 3),), False),
        (("",) * (MAX_ARGV_BYTES - 4), True),
        (("",) * (MAX_ARGV_BYTES - 3), False),
    ],
    ids=[
        "far below",
        "exactly",
        "one byte more",
        "three bytes a character",
        "too many of them",
        "only ends",
        "one end too many",
    ],
)
def test_argv_when_its_size_is_near_the_limit_then_every_byte_counts(args: tuple[str, ...], *, fits: bool) -> None:
    if fits:
        assert JobParams(command="true", args=args).args == args
    else:
        refused = refusal(args=args)
        assert refused.details == {"path": "args"}
        assert str(MAX_ARGV_BYTES) in refused.message


@pytest.mark.parametrize("name", ["A", "_", "a1", "PATH", "STOKE", "LISTEN", "LD_PRELOADED", "ifs"])
def test_env_when_a_name_is_the_jobs_own_then_it_is_taken(name: str) -> None:
    assert JobParams(command="true", env={name: "="}).env == {name: "="}


@pytest.mark.parametrize(
    "name", ["", "A=B", "1A", "A-B", "A B", "\N{LATIN SMALL LETTER E WITH ACUTE}", "A\n", "A" * 90 + "!"]
)
def test_env_when_a_name_is_not_valid_then_it_is_refused_with_its_path(name: str) -> None:
    refused = refusal(env={"GOOD": "1", name: "1"})

    assert refused.details == {"path": f"env.{name[:80]}"}
    assert "not a name" in refused.message


@pytest.mark.parametrize("name", sorted(DANGEROUS_ENV))
def test_env_when_a_variable_would_change_the_program_then_it_is_refused(name: str) -> None:
    refused = refusal(env={name: "x"})

    assert refused.details == {"path": f"env.{name}"}
    assert "changes what the command itself runs" in refused.message


@pytest.mark.parametrize("name", ["STOKER_", "STOKER_TOKEN", "LISTEN_FDS", "TRACEPARENT", "NOTIFY_SOCKET"])
def test_env_when_a_variable_is_reserved_then_it_is_refused(name: str) -> None:
    assert "reserved" in refusal(env={name: "x"}).message


def test_env_when_there_are_too_many_variables_then_they_are_refused_together() -> None:
    most: dict[str, AnyText] = {f"V{number}": "" for number in range(MAX_VARIABLES)}

    assert JobParams(command="true", env=most).env == most
    assert refusal(env=most | {"ONE_MORE": ""}).details == {"path": "env"}


def test_env_when_all_variables_together_are_too_large_then_the_largest_is_named() -> None:
    value = "é" * 30_000
    most: dict[str, AnyText] = {f"V{number}": value for number in range(17)}

    assert JobParams(command="true", env=most).env == most
    refused = refusal(env=most | {"LARGE": value + "x"})
    assert refused.details == {"path": "env"}
    assert "1080083 bytes, most of them LARGE; the limit is 1048576" in refused.message


@pytest.mark.parametrize("of", ["created", "ended"])
def test_filter_when_a_time_ends_before_it_begins_then_it_is_refused_with_its_path(of: str) -> None:
    same: dict[str, Any] = {f"{of}_since": 1_000_000_000_007, f"{of}_until": 1_000_000_000_007}
    JobFilter(**same)

    with pytest.raises(InvalidParams, match=f"{of}_until: 2001-09-09T01:46:40Z is before {of}_since") as refused:
        JobFilter(**same | {f"{of}_since": 1_000_000_001_000, f"{of}_until": 1_000_000_000_000})

    assert refused.value.details["path"] == f"{of}_until"


def test_filter_when_it_names_steps_of_no_workflow_then_it_is_refused() -> None:
    with pytest.raises(InvalidParams, match="step: names steps of a workflow, and none is named"):
        JobFilter(step="compile")
    assert JobFilter(step="compile", workflow=7).step == "compile"
