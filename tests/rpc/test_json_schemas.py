"""The printed JSON Schemas accept what Stoker accepts: every example, every setting, the lines of a real daemon."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from stoker.config.loading import load
from stoker.core.errors import InvalidParams
from stoker.core.requests import JobParams
from stoker.core.workflow.definition import StepDefaults, StepParams
from stoker.rpc.answer_types import ANSWERS, NOTIFICATIONS
from stoker.rpc.json_schemas import HELP, SCHEMAS
from stoker.rpc.methods import METHODS
from stoker.rpc.schema import read_params
from stoker.rpc.table import MethodKind
from tests.support.rpc import RawClient, request

if TYPE_CHECKING:
    import msgspec

    from tests.support.daemon import DaemonProcess

CONFIG = Path(__file__).parents[2] / "config"
SETTINGS_FILES = [CONFIG / "stoker.toml", *sorted(CONFIG.glob("examples/*.toml"))]
FLOW_FILES = sorted(CONFIG.glob("examples/flows/*.toml"))
VALIDATORS = {name: Draft202012Validator(make()) for name, make in SCHEMAS.items()}
# Fields with rules that no schema has: the names of variables, the texts of conditions, bytes in base64.
BEYOND = {"command", "args", "env", "working_dir", "wait_for"}
ODD: list[Any] = [
    None,
    True,
    -1,
    0,
    1,
    7,
    300,
    10**13,
    2**70,
    0.5,
    "",
    "x",
    "/x",
    "a b",
    "requeue",
    "x" * 300,
    [],
    [1],
    ["x"],
    {},
]
ODD += [{"a": 1}, {"a": "b"}, {"job": 3}, {"job": 3, "on": "any"}, {"memory_bytes": 1 << 30}, {"all": ["idle"]}]


def mistakes(schema: str, value: Any) -> list[str]:
    return [error.message for error in VALIDATORS[schema].iter_errors(value)]


@pytest.mark.parametrize("name", SCHEMAS)
def test_schema_when_it_is_printed_then_it_is_one_of_the_draft_that_it_names(name: str) -> None:
    Draft202012Validator.check_schema(SCHEMAS[name]())


def test_answers_when_a_method_exists_then_it_has_a_type() -> None:
    assert sorted(ANSWERS) == sorted(METHODS)
    assert set(NOTIFICATIONS) == {name for name, method in METHODS.items() if method.kind is MethodKind.STREAM}


@pytest.mark.parametrize("kind", HELP, ids=lambda kind: kind.__name__)
def test_help_when_a_type_has_a_field_then_it_is_described(kind: type[msgspec.Struct]) -> None:
    assert set(kind.__struct_encode_fields__) <= HELP[kind].keys()


@pytest.mark.parametrize("kind", [(JobParams,), (StepParams, StepDefaults)], ids=["job", "step"])
def test_help_when_it_describes_a_field_then_a_type_has_it(kind: tuple[type[msgspec.Struct], ...]) -> None:
    assert set(HELP[kind[0]]) - {name for each in kind for name in each.__struct_encode_fields__} <= set(
        HELP[JobParams]
    )


@pytest.mark.parametrize("file", SETTINGS_FILES, ids=lambda file: file.name)
def test_settings_when_a_file_is_shipped_then_the_schema_accepts_it(file: Path) -> None:
    assert mistakes("settings", tomllib.loads(file.read_text())) == []


@pytest.mark.parametrize("file", FLOW_FILES, ids=lambda file: file.name)
def test_flow_when_a_file_is_shipped_then_the_schema_accepts_it(file: Path) -> None:
    assert mistakes("workflow", tomllib.loads(file.read_text())) == []


WRONG_SETTINGS = [
    "[nonsense]",
    "[daemon]\nmax_runing = 3",
    "[daemon]\nmax_running = -1",
    '[log]\nlevel = "loud"',
    '[queues."a b"]',
    '[queues.bulk]\nclass = "lowest"',
    '[retention.queues.bulk]\nkeep = "soon"',
    '[schedules.nightly]\ntiming = "@daily"',
    '[schedules.nightly]\ntiming = "@daily"\nname = "x"\njob.command = "true"',
    '[schedules.nightly]\ntiming = "@daily"\n[schedules.nightly.flow]\nname = "f"\nsteps.a.comand = "true"',
    '[hooks.mail]\non = ["job.sneezed"]\ncommand = "true"',
    '[hooks.mail]\non = ["job.failed"]',
]


@pytest.mark.parametrize("text", WRONG_SETTINGS)
def test_settings_when_a_key_is_wrong_then_the_schema_refuses_it(text: str) -> None:
    assert mistakes("settings", tomllib.loads(text)) != []


def test_settings_when_a_kept_queue_has_any_name_then_the_schema_accepts_it(tmp_path: Path) -> None:
    file = tmp_path / "stoker.toml"
    file.write_text('[retention.queues.Bulk]\nkeep = "3d"\n')

    load(file, {})
    assert mistakes("settings", tomllib.loads(file.read_text())) == []


@pytest.mark.parametrize(
    "steps",
    [{}, {"a": {}}, {"a b": {"command": "x"}}, {"a": {"command": "x", "need": []}}, {"a": {"command": 1}}],
    ids=json.dumps,
)
def test_flow_when_a_step_is_wrong_then_the_schema_refuses_it(steps: dict[str, Any]) -> None:
    assert mistakes("workflow", {"name": "f", "steps": {"a": {"command": "x"}}}) == []
    assert mistakes("workflow", {"name": "f", "steps": steps}) != []


@given(field=st.sampled_from(JobParams.__struct_fields__), value=st.sampled_from(ODD) | st.integers() | st.text())
def test_job_when_the_daemon_and_the_schema_read_it_then_they_agree(field: str, value: Any) -> None:
    job = {"command": "true", field: value}
    try:
        read_params(job, JobParams, "job")
        refused = False
    except InvalidParams:
        refused = True

    assert (not refused) <= (mistakes("spec", job) == []), "what Stoker accepts, the schema accepts"
    if field not in BEYOND:
        assert (mistakes("spec", job) != []) == refused


def test_protocol_when_a_daemon_answers_then_each_line_is_as_the_schema_has_it(shared: DaemonProcess) -> None:
    lines = [
        request("job.submit", 1, command="true"),
        request("job.submit", 2, command="no such program"),
        request("system.status", 3),
        request("job.list", 4),
        request("watch", 5, after=0),
    ]
    heard: list[Any] = []
    with RawClient(shared.socket) as client:
        for line in lines:
            client.say(line)
            assert mistakes("protocol", json.loads(line)) == []
        while len({line.get("id") for line in heard}) <= len(lines):  # their answers, and a notification
            heard.append(client.hear())

    assert [error for line in heard for error in mistakes("protocol", line)] == []


@pytest.mark.parametrize(
    "line",
    [
        {"method": "job.get", "params": {"id": 1}},
        {"jsonrpc": "2.0", "id": 1, "method": "job.frobnicate"},
        {"jsonrpc": "2.0", "id": 1, "method": "job.get", "params": {"id": 0}},
        {"jsonrpc": "2.0", "id": 1, "method": "job.get", "params": {"id": 1}, "more": 1},
        {"jsonrpc": "2.0", "id": 1, "error": "no"},
        [],
    ],
    ids=json.dumps,
)
def test_protocol_when_a_line_is_wrong_then_the_schema_refuses_it(line: Any) -> None:
    assert mistakes("protocol", line) != []
