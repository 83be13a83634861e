"""The changes that run each hook, and the data that its command gets."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from stoker.core.hooks import (
    CAUSES,
    FILTERS,
    MAX_SUMMARY,
    NEW_STATES,
    Hook,
    HookOn,
    Subject,
    hook_data,
    kind_of,
    made_up,
    matches,
    summary,
    unmatched,
    useless_filters,
)
from stoker.core.job.model import FINAL, Change, Reason, Spec, State
from stoker.core.workflow.state import ENDED, Workflow, WorkflowState
from tests.support import jobs

ALL = Hook(name="h", on=tuple(HookOn), command="true")


def change(kind: str, before: str | None, after: str | None, cause: str = "ended", **payload: Any) -> Change:
    return Change(
        seq=7,
        at=1,
        kind=kind,
        subject="1",
        from_state=before,
        to_state=after,
        cause=cause,
        actor_uid=None,
        payload=payload,
    )


def workflow(name: str = "nightly") -> Workflow:
    state = WorkflowState.FAILED
    return Workflow(id=3, name=name, owner_uid=0, trace_id="", flow="", flow_hash=b"", created_at=0, state=state)


def failed(**spec: Any) -> Subject:
    job = jobs.job(State.FAILED, asked=jobs.spec(**spec), id=1)
    return Subject(job=replace(job, reason=Reason.EXIT, exit_code=3))


# --- the table ---


@pytest.mark.parametrize(
    ("kind", "before", "after", "cause", "on"),
    [
        ("job", "running", "failed", "ended", HookOn.JOB_FAILED),
        ("job", "queued", "held", "hold", HookOn.JOB_HELD),
        ("job", "waiting", "expired", "ttl_passed", HookOn.JOB_EXPIRED),
        ("job", "running", "running", "unresponsive", HookOn.JOB_UNRESPONSIVE),
        ("job", "failed", "failed", "edit", None),
        ("job", None, "queued", "submitted", None),
        ("job", "running", "waiting", "ended", None),
        ("workflow", "running", "failed", "failed", HookOn.WORKFLOW_FAILED),
        ("workflow", "running", "running", "paused", None),
        ("workflow", "running", "running", "cancelled", None),
        ("job", "running", "running", "superseded", None),
        ("job", "running", "superseded", "ended", HookOn.JOB_SUPERSEDED),
        ("queue", None, None, "paused", HookOn.QUEUE_PAUSED),
        ("queue", None, None, "throttled", HookOn.QUEUE_THROTTLED),
        ("queue", None, None, "set", None),
        ("system", None, None, "disk_low", HookOn.DISK_LOW),
        ("system", None, None, "recovered", HookOn.DAEMON_RECOVERED),
        ("system", None, None, "purged", None),
        ("hook", None, None, "refused", None),
    ],
)
def test_kind_when_a_change_is_recorded_then_the_table_names_it(
    kind: str, before: str | None, after: str | None, cause: str, on: HookOn | None
) -> None:
    assert kind_of(change(kind, before, after, cause)) is on


def test_table_when_it_is_compared_with_the_states_then_each_end_can_be_named() -> None:
    ends = {("job", state.value) for state in {*FINAL, State.HELD}} | {("workflow", state.value) for state in ENDED}

    assert ends == NEW_STATES.keys()
    assert {*NEW_STATES.values(), *CAUSES.values()} == set(HookOn)
    assert FILTERS.keys() == {on.noun for on in HookOn}


# --- filters ---


@pytest.mark.parametrize(
    ("filters", "subject", "passes"),
    [
        ({}, failed(), True),
        ({}, Subject(), True),
        ({"queue": "bulk"}, failed(queue="bulk"), True),
        ({"queue": "bulk"}, failed(queue="default"), False),
        ({"queue": "bulk"}, Subject(queue="bulk"), True),
        ({"queue": "bulk"}, Subject(queue="other"), False),
        ({"labels": {"a": "1"}}, failed(labels={"a": "1", "b": "2"}), True),
        ({"labels": {"a": "1", "b": "3"}}, failed(labels={"a": "1", "b": "2"}), False),
        ({"labels": {"a": "1"}}, failed(), False),
        ({"workflow": "nightly"}, Subject(workflow=workflow()), True),
        ({"workflow": "nightly"}, Subject(workflow=workflow("other")), False),
        ({"workflow": "nightly"}, failed(), False),
        ({"workflow": "nightly"}, Subject(job=failed().job, workflow=workflow()), True),
        ({"workflow": "nightly", "queue": "q"}, Subject(job=failed().job, workflow=workflow()), False),
    ],
)
def test_filter_when_a_change_has_this_subject_then_it_passes_or_not(
    filters: dict[str, Any], subject: Subject, *, passes: bool
) -> None:
    assert matches(replace(ALL, **filters), subject) is passes


def test_filters_when_they_apply_to_no_such_change_then_each_is_named_with_it() -> None:
    on = [HookOn.JOB_FAILED, HookOn.WORKFLOW_FAILED, HookOn.DISK_LOW]

    assert list(useless_filters(on, ["queue"])) == [("queue", HookOn.WORKFLOW_FAILED)]
    assert list(useless_filters(on[:2], ["workflow"])) == []


# --- the data that a command gets ---


def test_hook_data_when_a_job_failed_then_it_has_the_job_and_the_change() -> None:
    record = hook_data(ALL, HookOn.JOB_FAILED, change("job", "running", "failed", secret="x"), failed(name="n"), "host")

    assert (record["hook"], record["on"], record["seq"], record["host"]) == ("h", "job.failed", 7, "host")
    assert record["summary"] == "job 1 (n) failed: exit code 3"
    assert (record["job"]["id"], record["job"]["reason"], record["job"]["exit_code"]) == (1, "exit", 3)
    assert record["details"] == {}, "the payload of a job may hold text of the job"
    assert json.loads(msgspec.json.encode(record)) == record


def test_hook_data_when_a_queue_is_throttled_then_its_details_have_the_cause() -> None:
    recorded = change("queue", None, None, "throttled", causes=["cpu"], queue=object(), note=None)

    record = hook_data(ALL, HookOn.QUEUE_THROTTLED, recorded, Subject(queue="bulk"), "host")

    assert (record["queue"], record["details"]) == ("bulk", {"causes": ["cpu"]})


def test_hook_data_when_the_payload_is_encoded_then_it_has_no_details() -> None:
    recorded = replace(change("queue", None, None, "paused"), payload=msgspec.Raw(b"{}"))

    assert hook_data(ALL, HookOn.QUEUE_PAUSED, recorded, Subject(queue="bulk"), "host")["details"] == {}


@pytest.mark.parametrize(
    ("on", "recorded", "subject", "words"),
    [
        (HookOn.JOB_UNRESPONSIVE, change("job", "running", "running"), failed(), "job 1 is unresponsive"),
        (HookOn.JOB_SUCCEEDED, change("job", "running", "succeeded"), Subject(job=jobs.job(id=2)), "job 2 succeeded"),
        (
            HookOn.JOB_HELD,
            change("job", "queued", "held"),
            Subject(job=replace(jobs.job(State.HELD, id=2), reason=Reason.USER)),
            "job 2 was held by a person",
        ),
        (
            HookOn.WORKFLOW_FAILED,
            change("workflow", "running", "failed"),
            Subject(workflow=workflow(), broken=("a", "b")),
            "workflow 3 (nightly) failed: a, b",
        ),
        (HookOn.QUEUE_PAUSED, change("queue", None, None), Subject(queue="bulk"), "queue bulk was paused"),
        (
            HookOn.QUEUE_THROTTLED,
            change("queue", None, None, causes=["cpu", "memory"]),
            Subject(queue="bulk"),
            "queue bulk was throttled: cpu, memory",
        ),
        (
            HookOn.DISK_LOW,
            change("system", None, None, free_bytes=1 << 20),
            Subject(),
            "the disk is low: 1.0M are free, no jobs are accepted",
        ),
        (
            HookOn.DAEMON_RECOVERED,
            change("system", None, None, attempts=2),
            Subject(),
            "stokerd started and found 2 attempts of an earlier daemon unfinished",
        ),
    ],
)
def test_summary_when_a_change_is_described_then_it_is_a_sentence(
    on: HookOn, recorded: Change, subject: Subject, words: str
) -> None:
    assert summary(on, recorded, subject) == words


@pytest.mark.parametrize(
    ("filters", "why"),
    [
        ({}, None),
        ({"queue": "bulk", "workflow": "nightly"}, None),
        ({"queue": "hooks"}, None),
        ({"queue": "bulks"}, "queue: there is no queue 'bulks' (did you mean bulk?)"),
        ({"queue": "other", "workflow": "x"}, "queue: there is no queue 'other'"),
        ({"workflow": "weekly"}, "workflow: no workflow 'weekly' is stored, and no schedule submits one"),
    ],
)
def test_filter_when_it_names_an_unknown_queue_or_workflow_then_that_is_explained(
    filters: dict[str, Any], why: str | None
) -> None:
    assert unmatched(replace(ALL, **filters), {"bulk", "default"}, {"nightly"}) == why


def test_summary_when_a_name_has_lines_or_is_long_then_it_is_one_short_line() -> None:
    record = change("job", "running", "failed")

    assert summary(HookOn.JOB_FAILED, record, failed(name="a\nBcc: b\x1b")) == "job 1 (a Bcc: b ) failed: exit code 3"
    assert len(summary(HookOn.WORKFLOW_FAILED, record, Subject(workflow=workflow("w" * 500)))) == MAX_SUMMARY


@pytest.mark.parametrize("on", HookOn)
@pytest.mark.parametrize("filtered", [False, True])
def test_change_when_it_is_made_up_then_it_passes_the_filters_and_has_an_input(on: HookOn, *, filtered: bool) -> None:
    given = {"queue": "bulk", "workflow": "nightly", "labels": {"a": "1"}} if filtered else {}
    hook = replace(ALL, on=(on,), **{key: value for key, value in given.items() if key in FILTERS[on.noun]})

    recorded, subject = made_up(hook, on, 5)

    assert matches(hook, subject)
    assert recorded.seq == 0
    assert hook_data(hook, on, recorded, subject, "host")["summary"]


def test_work_when_a_hook_is_declared_then_its_jobs_are_of_the_queue_of_hooks() -> None:
    work = replace(ALL, args=("a",), env={"A": "1"}).work

    assert (work.command, work.args, work.env, work.queue) == ("true", ("a",), {"A": "1"}, "hooks")


@pytest.mark.parametrize(
    ("fields", "submitter"),
    [
        ({}, None),
        ({"schedule": "nightly"}, "schedule nightly"),
        ({"hook": "mail"}, "hook mail"),
        ({"hook": "mail", "hook_change": 7}, "hook mail, change 7"),
    ],
)
def test_submitter_when_no_client_submitted_the_job_then_it_is_named(
    fields: dict[str, Any], submitter: str | None
) -> None:
    assert Spec(command="true", working_dir="/", **fields).submitter == submitter
