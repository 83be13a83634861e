"""Resuming under a real daemon: from a pause and from an end, by strategy, from a step, explained, limited in time.

Owns the answers that a person gets. tests/core tests the plan: which step runs, and why.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from stoker.core.errors import (
    FlowInvalid,
    InvalidParams,
    NotAllowed,
    ResumeTimeout,
    StepNotFound,
    StrategyFailed,
    StrategyNotFound,
)
from stoker.workflows.resume import MAX_HANGING
from tests.support.daemon import DaemonProcess
from tests.support.facts import until
from tests.support.flows import chain, flow, job_of, send, sent_flow, settled, step, step_states, workflow_view
from tests.support.work import lines, running

if TYPE_CHECKING:
    from pathlib import Path

    import stoker
    from tests.support.work import Gate

MODULES = {
    "plans": """
import threading

import stoker


@stoker.strategy("skip-b")
def skip_b(step):
    return "skip" if step.step == "b" else "restart"


@stoker.strategy("wrong")
def wrong(step):
    return "sideways"


@stoker.strategy("slow")
def slow(step):
    threading.Event().wait(2)
    return "restart"


@stoker.strategy("endless")
def endless(step):
    with open(__file__ + ".asked", "a") as asked:
        asked.write(f"{step.workflow}\\n")
    threading.Event().wait()
"""
}
SETTINGS = '[daemon]\nmax_running = 8\nhandlers = ["plans"]\n[workflows]\nresume_timeout_ms = 30000\n'


def resume(client: stoker.Client, workflow: int, **options: Any) -> dict[str, Any]:
    answer: dict[str, Any] = client.call("workflow.resume", {"id": workflow, **options})
    return answer


def failed_flow(client: stoker.Client, tmp_path: Path, **options: Any) -> int:
    """a succeeds, b fails until the flag exists, c needs b, d fails like b and needs nothing."""
    ledger, flag = tmp_path / "ledger", tmp_path / "flag"
    fails = f"test -e {flag}"
    steps = {
        "a": step(f"echo a >> {ledger}"),
        "b": step(f"echo b >> {ledger}; {fails}", "a", **options),
        "c": step(f"echo c >> {ledger}", "b"),
        "d": step(fails),
    }
    workflow = sent_flow(client, steps)
    assert settled(client, workflow) == "failed"
    return workflow


def test_resume_when_paused_then_it_goes_on(client: stoker.Client, gate: Gate) -> None:
    workflow = sent_flow(client, {"a": step(f"read _ < {gate.path}; :"), "b": step("exit 0", "a")})
    running(client, job_of(client, workflow, "a"))
    client.call("workflow.pause", {"id": workflow})
    gate.open()

    assert resume(client, workflow)["state"] == "running"

    assert settled(client, workflow) == "succeeded"


def test_resume_when_it_failed_then_completed_steps_do_not_run_again(client: stoker.Client, tmp_path: Path) -> None:
    workflow = failed_flow(client, tmp_path)
    (tmp_path / "flag").touch()

    answer = resume(client, workflow)

    assert (answer["reset"], answer["kept"]) == (["b", "c", "d"], ["a"])
    assert settled(client, workflow, "succeeded") == "succeeded"
    assert lines(tmp_path / "ledger") == ["a", "b", "b", "c"]


def test_resume_when_cancelled_then_the_rest_is_run(client: stoker.Client, gate: Gate, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    waits = f"echo b >> {ledger}; read _ < {gate.path}; :"
    workflow = sent_flow(client, {"a": step("exit 0"), "b": step(waits, "a"), "c": step("exit 0", "b")})
    until(lambda: lines(ledger), why="the second step")
    client.call("workflow.cancel", {"id": workflow})
    assert settled(client, workflow) == "cancelled"
    gate.open()

    resume(client, workflow)

    assert settled(client, workflow, "succeeded") == "succeeded"
    assert lines(ledger) == ["b", "b"]


@pytest.mark.parametrize(
    ("strategy", "wanted"),
    [
        ("skip", {"a": "succeeded", "b": "skipped", "c": "succeeded", "d": "skipped"}),
        ("restart", {"a": "succeeded", "b": "succeeded", "c": "succeeded", "d": "succeeded"}),
        ("adopt", {"a": "succeeded", "b": "succeeded", "c": "succeeded", "d": "succeeded"}),
        ("skip-b", {"a": "succeeded", "b": "skipped", "c": "succeeded", "d": "succeeded"}),
    ],
)
def test_strategy_when_named_for_a_resume_then_it_replaces_that_of_the_step(
    client: stoker.Client, tmp_path: Path, strategy: str, wanted: dict[str, str]
) -> None:
    workflow = failed_flow(client, tmp_path, resume="fail")
    (tmp_path / "flag").touch()

    resume(client, workflow, strategy=strategy)

    assert settled(client, workflow, "succeeded") == "succeeded"
    assert step_states(client, workflow) == wanted


def test_strategy_when_a_step_has_fail_then_it_stays_failed_and_dependents_skipped(
    client: stoker.Client, tmp_path: Path
) -> None:
    workflow = failed_flow(client, tmp_path, resume="fail")
    (tmp_path / "flag").touch()

    answer = resume(client, workflow)

    assert answer["reset"] == ["d"]
    settled(client, workflow, "failed")
    assert step_states(client, workflow) == {"a": "succeeded", "b": "failed", "c": "skipped", "d": "succeeded"}


def test_strategy_when_unknown_then_the_known_are_listed_and_nothing_changes(
    client: stoker.Client, tmp_path: Path
) -> None:
    workflow = failed_flow(client, tmp_path)

    with pytest.raises(
        StrategyNotFound, match="restart, from_checkpoint, skip, fail, adopt, endless, skip-b, slow, wrong"
    ):
        resume(client, workflow, strategy="nope")
    with pytest.raises(FlowInvalid, match="skip-b"):
        send(client, flow({"a": step("exit 0", resume="nope")}))

    assert workflow_view(client, workflow)["state"] == "failed"


def test_strategy_when_it_fails_then_nothing_changes(client: stoker.Client, tmp_path: Path) -> None:
    workflow = failed_flow(client, tmp_path)

    with pytest.raises(StrategyFailed, match="sideways"):
        resume(client, workflow, strategy="wrong")

    assert workflow_view(client, workflow)["state"] == "failed"


def test_strategy_when_it_never_returns_then_others_answer_and_the_daemon_ends(
    stopped_daemon: DaemonProcess, tmp_path: Path
) -> None:
    daemon = stopped_daemon
    daemon.config.write_text(SETTINGS.replace("30000", "1000"))
    with daemon.start().client() as client:
        workflow = failed_flow(client, tmp_path)
        with pytest.raises(ResumeTimeout, match="within 1000 ms"):
            resume(client, workflow, strategy="slow")
        assert workflow_view(client, workflow)["state"] == "failed"
        for _ in range(6):
            with pytest.raises(ResumeTimeout):
                resume(client, workflow, strategy="endless")
        until(lambda: lines(daemon.home / "plans.py.asked") == [str(workflow)] * 6)

        logs = daemon.cli("logs", str(job_of(client, workflow, "b")), "-n", "3")
        assert (logs.returncode, workflow_view(client, workflow)["state"]) == (0, "failed")
        assert daemon.stop() == 0
        assert "daemon_stopped" in daemon.tail()


def test_strategy_when_too_many_never_return_then_no_other_is_asked(
    stopped_daemon: DaemonProcess, tmp_path: Path
) -> None:
    stopped_daemon.config.write_text(SETTINGS.replace("30000", "100"))
    with stopped_daemon.start().client() as client:
        workflow = failed_flow(client, tmp_path)
        for _ in range(MAX_HANGING):
            with pytest.raises(ResumeTimeout):
                resume(client, workflow, strategy="endless")

        with pytest.raises(StrategyFailed, match=f"{MAX_HANGING} resume strategies have not returned"):
            resume(client, workflow, strategy="endless")

        assert workflow_view(client, workflow)["state"] == "failed"


def test_from_when_a_step_is_named_then_only_it_and_its_dependents_run(client: stoker.Client, tmp_path: Path) -> None:
    workflow = failed_flow(client, tmp_path)
    (tmp_path / "flag").touch()

    answer = resume(client, workflow, **{"from": "b"})

    assert answer["reset"] == ["b", "c"]
    settled(client, workflow, "failed")
    assert step_states(client, workflow) == {"a": "succeeded", "b": "succeeded", "c": "succeeded", "d": "failed"}
    with pytest.raises(StepNotFound):
        resume(client, workflow, **{"from": "z"})


def test_explain_when_asked_then_each_step_has_its_decision_and_nothing_changes(
    client: stoker.Client, tmp_path: Path
) -> None:
    workflow = failed_flow(client, tmp_path, resume="fail")
    before = chain(client, workflow=workflow)

    answer = resume(client, workflow, explain=True)

    decisions = {one["step"]: (one["runs"], one["action"]) for one in answer["steps"]}
    assert decisions == {
        "a": (False, "keep"),
        "b": (False, "fail"),
        "c": (False, "leave"),
        "d": (True, "from_checkpoint"),
    }
    assert next(one["why"] for one in answer["steps"] if one["step"] == "c") == "it needs b ok, which stays failed"
    assert (workflow_view(client, workflow)["state"], chain(client, workflow=workflow)) == ("failed", before)


def test_resume_when_there_is_nothing_to_resume_then_it_is_refused(client: stoker.Client, gate: Gate) -> None:
    done = sent_flow(client, {"a": step("exit 0")})
    goes_on = sent_flow(client, {"a": step(f"read _ < {gate.path}; :")})
    settled(client, done)

    with pytest.raises(NotAllowed, match="no step of it would run"):
        resume(client, done)
    with pytest.raises(NotAllowed, match="and all steps behind it were completed") as refused:
        resume(client, done, **{"from": "a"})
    assert refused.value.hint == f"stoker workflow retry {done} --step a"
    with pytest.raises(NotAllowed, match="resume does not apply"):
        resume(client, goes_on)


def test_limits_when_named_for_a_resume_then_only_the_steps_taken_again_have_them(
    daemon: DaemonProcess, gate: Gate, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    third_time = f"echo x >> {ledger}; test $(wc -l < {ledger}) -ge 3"
    steps = {
        "done": step("exit 0"), "late": step(f"read _ < {gate.path}; :", timeout_ms=100, on_orphan="requeue"),
        "flaky": step(third_time, base_delay_ms=1, on_orphan="requeue"), "behind": step("exit 0", "late", "flaky"),
    }  # fmt: skip
    with daemon.client() as client:
        workflow = sent_flow(client, steps)
        assert settled(client, workflow) == "failed"
        before = limits_of(client, workflow)
        resume(client, workflow, explain=True, timeout_ms=600_000, max_attempts=2)
        assert limits_of(client, workflow) == before

        answer = resume(client, workflow, timeout_ms=600_000, max_attempts=2)
        assert answer["reset"] == ["behind", "flaky", "late"]
    daemon.kill_and_start()
    with daemon.client() as client:
        assert limits_of(client, workflow) == {**dict.fromkeys(answer["reset"], (600_000, 2)), "done": before["done"]}
        gate.open()
        assert settled(client, workflow, "succeeded") == "succeeded"


def limits_of(client: stoker.Client, workflow: int) -> dict[str, tuple[int | None, int]]:
    jobs = {one["name"]: client.get(one["job"]) for one in workflow_view(client, workflow)["steps"]}
    return {name: (job["timeout_ms"], job["max_attempts"]) for name, job in jobs.items()}


@pytest.mark.parametrize(
    ("wrong", "path"),
    [({"timeout_ms": 0}, "timeout_ms"), ({"max_attempts": 0}, "max_attempts"), ({"verify": 1}, "verify")],
)
def test_limits_when_out_of_range_then_the_resume_is_refused_and_nothing_changes(
    client: stoker.Client, tmp_path: Path, wrong: dict[str, Any], path: str
) -> None:
    workflow = failed_flow(client, tmp_path)

    with pytest.raises(InvalidParams) as refused:
        resume(client, workflow, **wrong)

    assert refused.value.details["path"] == path
    assert workflow_view(client, workflow)["state"] == "failed"


@pytest.mark.parametrize("limit", ["timeout_ms", "max_attempts"])
def test_limits_when_no_step_would_be_taken_again_then_the_resume_is_refused(
    client: stoker.Client, gate: Gate, limit: str
) -> None:
    workflow = sent_flow(client, {"a": step(f"read _ < {gate.path}; :"), "b": step("exit 0", "a")})
    running(client, job_of(client, workflow, "a"))
    client.call("workflow.pause", {"id": workflow})

    with pytest.raises(InvalidParams, match=f"{limit}: no step would run again"):
        resume(client, workflow, **{limit: 9})

    assert workflow_view(client, workflow)["state"] == "paused"
    gate.open()
    resume(client, workflow)
    assert settled(client, workflow) == "succeeded"


def proven_flow(client: stoker.Client, tmp_path: Path) -> int:
    """a outputs the content of a file, b is verified by it, c fails until the flag exists."""
    (tmp_path / "value").write_text("one")
    steps = {
        "a": step(f'echo "value=$(cat {tmp_path}/value)" > $STOKER_OUTPUT; echo a >> {tmp_path}/ledger'),
        "b": step(f"echo b >> {tmp_path}/ledger", "a", verify=True),
        "c": step(f"test -e {tmp_path}/flag", "b"),
    }
    workflow = sent_flow(client, steps)
    assert settled(client, workflow) == "failed"
    return workflow


def why(client: stoker.Client, workflow: int, name: str, **options: Any) -> str:
    steps = resume(client, workflow, explain=True, **options)["steps"]
    return str(next(one["why"] for one in steps if one["step"] == name))


def test_proof_when_nothing_has_changed_then_a_completed_step_is_kept(client: stoker.Client, tmp_path: Path) -> None:
    workflow = proven_flow(client, tmp_path)

    assert why(client, workflow, "b") == "it was completed, and its fingerprint has not changed"

    (tmp_path / "flag").touch()
    resume(client, workflow)
    assert settled(client, workflow, "succeeded") == "succeeded"
    assert lines(tmp_path / "ledger") == ["a", "b"]


def test_proof_when_the_outputs_of_a_need_changed_then_the_step_runs_again(
    client: stoker.Client, tmp_path: Path
) -> None:
    workflow = proven_flow(client, tmp_path)
    (tmp_path / "value").write_text("two")
    client.call("job.retry", {"id": job_of(client, workflow, "a")})
    until(lambda: len(lines(tmp_path / "ledger")) == 3, why="the first step again")
    settled(client, workflow, "failed")

    assert why(client, workflow, "b") == "it was completed, but the outputs of its needs have changed"
    assert why(client, workflow, "b", verify=False) == "it was completed"

    (tmp_path / "flag").touch()
    resume(client, workflow)
    assert settled(client, workflow, "succeeded") == "succeeded"
    assert lines(tmp_path / "ledger") == ["a", "b", "a", "b"]


def test_proof_when_verify_is_off_then_a_completed_step_is_kept_whatever_changed(
    client: stoker.Client, tmp_path: Path
) -> None:
    workflow = proven_flow(client, tmp_path)
    (tmp_path / "value").write_text("two")
    (tmp_path / "flag").touch()
    client.call("job.retry", {"id": job_of(client, workflow, "a")})
    until(lambda: len(lines(tmp_path / "ledger")) == 3, why="the first step again")
    settled(client, workflow, "failed")

    assert resume(client, workflow, verify=False)["kept"] == ["a", "b"]

    assert settled(client, workflow, "succeeded") == "succeeded"
    assert lines(tmp_path / "ledger") == ["a", "b", "a"]


def test_proof_when_the_environment_of_workers_changed_then_it_is_reported(
    daemon: DaemonProcess, tmp_path: Path
) -> None:
    with daemon.client() as client:
        workflow = proven_flow(client, tmp_path)
        before = why(client, workflow, "b")
    daemon.restart()
    with daemon.client() as client:
        assert why(client, workflow, "b") == before
    daemon.environ["LANG"] = "C"
    daemon.restart()

    with daemon.client() as client:
        assert why(client, workflow, "b") == "it was completed, but its environment has changed"
