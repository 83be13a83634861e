"""The messages for wrong parameters: the path, the value, the limit and a hint."""

from __future__ import annotations

import typing
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stoker.core import wire_types
from stoker.core.errors import InvalidParams
from stoker.core.job.secret_values import NOT_KEPT
from stoker.core.requests import JobParams, Params
from stoker.core.schedule.request import ScheduleParams
from stoker.rpc.methods import METHODS
from stoker.rpc.schema import read_params

WRONG_JOBS: list[tuple[dict[str, Any], str, str, str | None]] = [
    ({}, "command", "this field is missing", "the program alone"),
    ({"command": 5}, "command", "expected a string, got 5", None),
    ({"command": ""}, "command", 'expected a string that is not empty, got ""', None),
    ({"comand": "ls"}, "comand", "no such field", "did you mean command?"),
    ({"command": "a", "retries": 3}, "retries", "no such field", "did you mean max_attempts?"),
    ({"command": "a", "args": ["x", 3]}, "args[1]", "expected a string, got 3", "a list of strings"),
    ({"command": "a", "args": ["x" * 60_000] * 3}, "args", "180004 bytes; the limit is 131072", "by a file"),
    ({"command": "a", "env": {"OK": "1", "FOO": 5}}, "env.FOO", "expected a string, got 5", None),
    ({"command": "a", "env": {"A=B": "x"}}, "env.A=B", "not a name of a variable", "without ="),
    ({"command": "a", "env": {"": "x"}}, "env.", "not a name of a variable", None),
    ({"command": "a", "env": {"STOKER_X": "x"}}, "env.STOKER_X", "reserved", "another name"),
    ({"command": "a", "env": {"LISTEN_FDS": "x"}}, "env.LISTEN_FDS", "reserved", None),
    ({"command": "a", "env": {"LD_PRELOAD": "x"}}, "env.LD_PRELOAD", "refused", "inside the job"),
    ({"command": "a", "env": {f"V{n}": "" for n in range(257)}}, "env", "257 variables; the limit is 256", None),
    ({"command": "a", "working_dir": "x"}, "working_dir", 'not allowed: "x"', "absolute path"),
    ({"command": "a", "queue": "a b"}, "queue", 'not allowed: "a b"', "letters, digits"),
    ({"command": "a", "labels": {"a b": "c"}}, "labels.a b", "not a valid name", "letters, digits"),
    ({"command": "a", "labels": {"a": 1.5}}, "labels.a", "expected a string, got 1.5", None),
    ({"command": "a", "resources": {"x": 0}}, "resources.x", "0 is less than 1, the minimum", "at least 1"),
    ({"command": "a", "limits": {"memory": 3}}, "limits.memory", "no such field", "did you mean memory_bytes?"),
    (
        {"command": "a", "limits": {"memory_bytes": 1}},
        "limits.memory_bytes",
        "1B is less than 1M, the minimum",
        "at least 1M",
    ),
    ({"command": "a", "backoff_factor": 0.5}, "backoff_factor", "0.5 is less than 1, the minimum", "1 to 1000"),
    (
        {"command": "a", "timeout_ms": 1.5},
        "timeout_ms",
        "expected a whole number",
        "a whole number of milliseconds, 1ms to 3660d",
    ),
    (
        {"command": "a", "limits": {"memory_bytes": "5M"}},
        "limits.memory_bytes",
        "expected a whole number",
        "number of bytes, at least",
    ),
    ({"command": "a", "limits": 5}, "limits", "expected an object, got 5", None),
    ({"command": "a", "needs": [7, {"job": -1}]}, "needs[1].job", "-1 is less than 1, the minimum", "ids of jobs"),
    ({"command": "a", "on_orphan": "x"}, "on_orphan", 'not allowed: "x"', "one of: fail, requeue, hold"),
    ({"command": "a", "timeout_ms": -1}, "timeout_ms", "-1ms is less than 1ms, the minimum", "1ms to 3660d"),
    ({"command": "a", "timeout_ms": 2**63 - 1}, "timeout_ms", "is more than 3660d, the maximum", None),
    ({"command": "a", "deadline": 1_700_000_000}, "deadline", "1970-01-20T16:13:20Z is less than 2001-", "since 1970"),
    ({"command": "a", "run_at": True}, "run_at", "got true", None),
    ({"command": "a", "success_exit_codes": [256]}, "success_exit_codes[0]", "256 is more than 255", "0 to 255"),
    ({"command": "a", "stdin": "x" * 65_537}, "stdin", "65537 characters; the limit is 65536", None),
    ({"command": "a", "traceparent": "x"}, "traceparent", 'not allowed: "x"', "W3C"),
    ({"command": "a", "rate_key": "a b"}, "rate_key", 'not allowed: "a b"', "@ / -, at most 128"),
    ({"command": "a", "wait_for": ["event:a"]}, "wait_for", 'got ["event:a"]', '{"all": ["event:a", "idle"]}'),
    ({"command": "a", "supersede_key": ""}, "supersede_key", 'that is not empty, got ""', "1 to 200 characters"),
    ({"command": "a", "priority": 2**63}, "priority", "9223372036854775808 is more than 10000", None),
]


@pytest.mark.parametrize(("job", "path", "problem", "hint"), WRONG_JOBS, ids=[row[1] for row in WRONG_JOBS])
def test_read_params_when_a_field_is_wrong_then_path_value_limit_and_hint_are_given(
    job: dict[str, Any], path: str, problem: str, hint: str | None
) -> None:
    with pytest.raises(InvalidParams) as caught:
        read_params(job, JobParams, "jobs[3]")

    assert caught.value.details["path"] == f"jobs[3].{path}"
    assert caught.value.message.startswith(f"jobs[3].{path}: ")
    assert problem in caught.value.message
    assert hint is None or hint in (caught.value.hint or "")


def test_read_params_when_a_list_is_empty_then_the_hint_counts_items() -> None:
    with pytest.raises(InvalidParams) as caught:
        read_params({"ids": []}, METHODS["job.wait"].params)

    assert caught.value.hint == "1 to 10000 items"


@pytest.mark.parametrize("value", [None, [], 5, "x"])
def test_read_params_when_they_are_no_object_then_the_error_names_the_type(value: object) -> None:
    with pytest.raises(InvalidParams, match="params: expected an object, got"):
        read_params(value, JobParams)


def test_read_params_when_a_job_says_everything_then_nothing_is_lost() -> None:
    job = {
        "command": "sh", "args": ["-c", "true"], "env": {"A": "b"}, "working_dir": "/", "stdin": None, "name": "n",
        "labels": {"team": "blue"}, "queue": "bulk", "priority": -3, "needs": [1, {"job": 2, "on": "any"}],
        "resources": {"git": 1}, "limits": {"memory_bytes": 1 << 20}, "backoff_factor": 2, "timeout_ms": None,
    }  # fmt: skip

    read = read_params(job, JobParams)

    assert msgspec.to_builtins(read)["env"] == {"A": "b"}
    assert set(msgspec.to_builtins(read)) == set(job)


def test_shapes_when_compared_with_the_server_then_a_job_has_the_same_fields() -> None:
    assert set(typing.get_type_hints(wire_types.JobSpec)) == set(JobParams.__struct_encode_fields__)


WORDS = st.sampled_from(["", "a", "a b", "a=b", "/tmp", "fail", "normal", "x" * 300, "\u00e9", "\t"])
NUMBERS = st.sampled_from([-1, 0, 1, 100, 1_800_000_000_000, 2**63, -(2**70), 0.5, 1e300])
ANY_JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.parametrize("name", METHODS)
@given(data=st.data())
@settings(max_examples=40)
def test_read_params_when_fields_hold_anything_then_it_reads_or_names_a_path(name: str, data: st.DataObject) -> None:
    params = METHODS[name].params
    fields = data.draw(st.lists(st.sampled_from([*params.__struct_encode_fields__, "foreign"]), max_size=3))
    value = {field: data.draw(ANY_JSON) for field in fields}

    outcome = outcome_of(value, params)

    assert outcome.details["path"] if isinstance(outcome, InvalidParams) else isinstance(outcome, params)


def outcome_of(value: object, params: type[Params]) -> Params | InvalidParams:
    try:
        return read_params(value, params)
    except InvalidParams as error:
        return error


@pytest.mark.parametrize(
    "name", ["x - at `$.env", "x - at `$.args[0]", "x - at `key` in `$.env", "x - at `$`", "x` - at `$.needs[0]"]
)
def test_error_when_an_unknown_field_is_named_like_a_path_then_that_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidParams, match="no such field") as refused:
        read_params({"command": "true", "env": {}, name: 1}, JobParams)

    assert refused.value.details["path"] == name


def test_secrets_when_the_job_of_a_schedule_has_some_then_they_are_refused_in_words() -> None:
    job = {"command": "true", "secrets": {"A": {"base64": "eA=="}}}

    with pytest.raises(InvalidParams, match=r"job\.secrets: no such field") as refused:
        read_params({"name": "n", "timing": "@daily", "job": job}, ScheduleParams)

    assert refused.value.hint == NOT_KEPT


@pytest.mark.timeout(60)
def test_error_when_a_name_repeats_the_mark_of_a_path_then_it_is_read_once() -> None:
    with pytest.raises(InvalidParams, match="no such field"):
        read_params({"command": "true", "` - at `key in `$" * 60_000: 1}, JobParams)


def without_maximum(schema: Any, path: str = "") -> list[str]:
    """The paths of the integers in a JSON Schema that may be of any size."""
    if isinstance(schema, list):
        return [found for index, part in enumerate(schema) for found in without_maximum(part, f"{path}/{index}")]
    if not isinstance(schema, dict):
        return []
    here = [path] if schema.get("type") == "integer" and "maximum" not in schema else []
    return here + [found for key, part in schema.items() for found in without_maximum(part, f"{path}/{key}")]


@pytest.mark.parametrize("method", METHODS)
def test_params_when_they_have_integers_then_each_has_a_maximum(method: str) -> None:
    assert without_maximum(msgspec.json.schema(METHODS[method].params)) == []
