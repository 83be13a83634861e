"""A spec gets defaults from the settings and its queue; values that are as usual are stored nowhere."""

from __future__ import annotations

import msgspec

from stoker.config import Config
from stoker.core.job.model import Queue
from stoker.core.requests import JobParams
from stoker.engine.spec_defaults import SpecDefaults
from stoker.store.jobs import spec_values

TRUE = JobParams(command="/bin/true", working_dir="/")
POLICY = -1  # its place in the values of the columns


def queue(**defaults: int) -> Queue:
    return Queue(name="default", defaults=defaults)


def test_spec_when_all_is_as_usual_then_row_and_change_say_only_what_was_sent() -> None:
    spec = SpecDefaults(Config()).resolve(TRUE, queue(grace_ms=10_000))

    assert msgspec.to_builtins(spec) == {"command": "/bin/true", "working_dir": "/"}
    assert spec_values(spec)[POLICY] == "{}"


def test_spec_when_a_queue_gives_another_value_then_row_and_change_have_it() -> None:
    spec = SpecDefaults(Config()).resolve(TRUE, queue(grace_ms=5_000))

    assert msgspec.to_builtins(spec)["grace_ms"] == 5_000
    assert spec_values(spec)[POLICY] == '{"grace_ms":5000}'
