"""Hooks: each change that a hook names gives one job, which gets the change; jobs of hooks trigger no hook."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from stoker.core.errors import DiskFull, HookNotFound, InvalidParams, QueueFull
from tests.support.facts import until
from tests.support.flows import sent_flow, settled, step, step_states
from tests.support.work import changes, end_of, job_view, shell, submit, submit_running

if TYPE_CHECKING:
    import stoker
    from tests.support.daemon import DaemonProcess
    from tests.support.work import Gate

TELL = 'command = "/bin/sh"\nargs = ["-c", "cat $STOKER_HOOK_FILE"]\n'
SETTINGS = f"""
[daemon]
max_running = 8
[cpu]
sample_ms = 100
[queues.watched]
[queues.low]
class = "low"
[hooks.failures]
on = ["job.failed", "job.held"]
queue = "watched"
{TELL}
[hooks.labelled]
on = ["job.succeeded"]
labels = {{ team = "web" }}
{TELL}
[hooks.nightly]
on = ["workflow.failed", "workflow.succeeded"]
workflow = "nightly"
{TELL}
[hooks.steps]
on = ["job.failed"]
workflow = "nightly"
{TELL}
[hooks.queues]
on = ["queue.paused"]
{TELL}
[hooks.silent]
on = ["job.unresponsive"]
{TELL}
[hooks.endings]
on = ["job.superseded", "workflow.cancelled"]
{TELL}
[hooks.everything]
on = ["job.failed", "job.succeeded", "job.cancelled"]
queue = "hooks"
{TELL}
[hooks.broken]
on = ["job.cancelled"]
queue = "watched"
command = "/bin/false"
[hooks.gone]
on = ["job.expired"]
command = "/nonexistent/program"
[hooks.lost]
on = ["job.failed"]
queue = "watchd"
command = "/bin/true"
"""
STORM = 100  # failures
UNFINISHED = "SELECT 1 FROM jobs WHERE state IN ('queued', 'running') LIMIT 1"
FAILURES = "SELECT seq, job_id FROM changes WHERE to_state = 'failed' AND from_state <> to_state ORDER BY seq"
TOLD = "SELECT hook_change FROM jobs WHERE hook = 'all' AND state = 'succeeded' ORDER BY hook_change"
FAIL, SUCCEED = shell("exit 3"), shell("exit 0")


def runs(client: stoker.Client, name: str) -> list[dict[str, Any]]:
    """The newest jobs of a hook, newest first."""
    return list(client.call("hook.get", {"name": name})["runs"])


def last_seq(client: stoker.Client) -> int:
    return int(client.status()["last_seq"])


def hook_record(client: stoker.Client, job: int) -> dict[str, Any]:
    """The JSON that the command of a hook printed."""
    assert end_of(client, job) == ("succeeded", "exit")
    return dict(json.loads(Path(job_view(client, job)["log"]).read_text()))


def run_for(client: stoker.Client, name: str, job: int, cause: str = "ended") -> dict[str, Any]:
    """The only job of a hook for the only change of a job with that cause."""
    (change,) = changes(client, job, cause)
    (run,) = until(lambda: [run for run in runs(client, name) if run["change"] == change["seq"]])
    return run


def test_hook_when_a_job_fails_then_one_hook_job_gets_the_change(client: stoker.Client) -> None:
    job = submit(client, FAIL, queue="watched", name="build", labels={"a": "1"})
    end_of(client, job)

    run = run_for(client, "failures", job)
    record = hook_record(client, run["job"])

    assert (record["hook"], record["on"], record["seq"]) == ("failures", "job.failed", run["change"])
    assert record["summary"] == f"job {job} (build) failed: exit code 3"
    assert (record["job"]["id"], record["job"]["exit_code"], record["job"]["labels"]) == (job, 3, {"a": "1"})
    view = job_view(client, run["job"])
    assert (view["queue"], view["hook"], view["hook_change"]) == ("hooks", "failures", run["change"])
    assert (view["max_attempts"], view["on_orphan"]) == (5, "requeue"), "the defaults of the queue hooks"
    assert view["hook_data"] == record


def test_hook_when_it_runs_then_its_variables_match_its_input(client: stoker.Client) -> None:
    job = client.call("hook.test", {"name": "failures"})["job"]
    end_of(client, job)

    environment = client.call("job.environment", {"id": job})["env"]

    summary = job_view(client, job)["hook_data"]["summary"]
    assert environment["STOKER_HOOK"] == "failures"
    assert environment["STOKER_HOOK_ON"] == "job.failed"
    assert environment["STOKER_HOOK_SUMMARY"] == summary


def test_hook_when_the_filter_does_not_pass_then_it_has_no_job(client: stoker.Client) -> None:
    other = submit(client, FAIL)
    plain = submit(client, SUCCEED)
    labelled = submit(client, SUCCEED, labels={"team": "web", "more": "x"})
    for job in (other, plain, labelled):
        end_of(client, job)

    run_for(client, "labelled", labelled)

    for name in ("failures", "labelled"):
        seqs = {change["seq"] for job in (other, plain) for change in changes(client, job)}
        assert seqs.isdisjoint(run["change"] for run in runs(client, name))


def test_hook_when_a_job_is_held_then_its_input_has_the_actor(client: stoker.Client) -> None:
    job = submit(client, SUCCEED, queue="watched", run_at=32_503_680_000_000)
    client.call("job.hold", {"id": job})

    record = hook_record(client, run_for(client, "failures", job, "hold")["job"])

    assert (record["on"], record["to_state"], record["job"]["state"]) == ("job.held", "held", "held")
    client.call("job.cancel", {"id": job})


def test_hook_when_a_workflow_fails_then_it_runs_for_the_workflow_and_its_steps(client: stoker.Client) -> None:
    first = len(runs(client, "nightly"))
    workflow = sent_flow(client, {"a": step("exit 0"), "b": step("exit 1", "a")}, name="nightly")
    settled(client, workflow)

    (run, *_) = until(lambda: runs(client, "nightly")[: len(runs(client, "nightly")) - first])
    record = hook_record(client, run["job"])
    of_step = hook_record(client, until(lambda: runs(client, "steps"))[0]["job"])

    assert (record["workflow"]["id"], record["workflow"]["broken"]) == (workflow, ["b"])
    assert record["summary"] == f"workflow {workflow} (nightly) failed: b"
    assert (of_step["job"]["step"], of_step["workflow"]["id"]) == ("b", workflow)


def test_hook_when_a_running_job_is_superseded_but_succeeds_then_it_has_no_job(
    client: stoker.Client, gate: Gate
) -> None:
    older = submit_running(client, gate.spec(), supersede_key="hooked")
    newer = submit(client, SUCCEED, supersede_key="hooked")
    gate.open()
    assert (end_of(client, older), end_of(client, newer)) == (("succeeded", "exit"), ("succeeded", "exit"))

    (marked,) = changes(client, older, "superseded")

    assert marked["seq"] not in [run["change"] for run in runs(client, "endings")]


def test_hook_when_a_workflow_with_a_running_step_is_cancelled_then_it_runs_once(client: stoker.Client) -> None:
    before = last_seq(client)
    workflow = sent_flow(client, {"a": step("sleep 60", grace_ms=300), "b": step("exit 0", "a")})
    until(lambda: step_states(client, workflow)["a"] == "running")
    client.call("workflow.cancel", {"id": workflow})
    assert settled(client, workflow) == "cancelled"

    new = [run for run in runs(client, "endings") if run["change"] > before]

    (record,) = (hook_record(client, run["job"]) for run in new)
    assert (record["to_state"], record["workflow"]["state"]) == ("cancelled", "cancelled")


def test_hook_when_a_queue_is_paused_then_it_runs_once(client: stoker.Client) -> None:
    before = last_seq(client)
    client.call("queue.pause", {"name": "low"})
    client.call("queue.resume", {"name": "low"})

    new = until(lambda: [run for run in runs(client, "queues") if (run["change"] or 0) > before])

    assert len(new) == 1
    assert hook_record(client, new[0]["job"])["queue"] == "low"


def test_hook_when_a_heartbeat_is_late_then_it_runs_and_the_job_goes_on(client: stoker.Client, gate: Gate) -> None:
    job = submit_running(client, gate.spec(), heartbeat_ms=100, unresponsive_warn_ms=200, unresponsive_kill_ms=600_000)

    until(lambda: changes(client, job, "unresponsive"))

    record = hook_record(client, run_for(client, "silent", job, "unresponsive")["job"])

    assert record["job"]["id"] == job
    assert record["details"]["silent_ms"] >= 200
    gate.open()
    assert end_of(client, job) == ("succeeded", "exit")


def test_hook_when_its_own_jobs_end_then_no_hook_has_a_job(client: stoker.Client) -> None:
    failing = submit(client, SUCCEED, queue="watched", run_at=32_503_680_000_000)
    client.call("job.cancel", {"id": failing})
    run = run_for(client, "broken", failing, "cancel")
    client.call("queue.set", {"name": "hooks", "defaults": {"max_attempts": 1}})
    own = submit(client, SUCCEED, queue="hooks")
    client.call("job.cancel", {"id": run["job"]})
    end_of(client, run["job"])
    end_of(client, own)

    until(lambda: runs(client, "everything"))  # for the job that a person submitted to the queue

    (only,) = runs(client, "everything")
    assert hook_record(client, only["job"])["job"]["id"] == own
    client.call("queue.set", {"name": "hooks", "defaults": {"max_attempts": 5}})


def test_hook_when_its_program_is_missing_then_its_job_fails_and_it_is_named(
    client: stoker.Client, shared: DaemonProcess
) -> None:
    job = submit(client, SUCCEED, run_at=32_503_680_000_000, deadline=32_503_680_000_001, queue="watched")
    client.call("job.cancel", {"id": job})
    paused = submit(client, SUCCEED, wait_for="event:never", ttl_ms=100)
    assert end_of(client, paused) == ("expired", "ttl")

    run = until(lambda: runs(client, "gone"))[0]

    assert end_of(client, run["job"]) == ("failed", "spawn_error")
    problems = {hook["name"]: hook["problem"] for hook in client.call("hook.list")["hooks"]}
    assert problems["gone"] == "command: /nonexistent/program does not exist"
    assert problems["failures"] is None
    assert shared.logged("hook_unusable", hook="gone")
    assert shared.logged("hook_unmatched", hook="lost", why="queue: there is no queue 'watchd' (did you mean watched?)")
    unmatched = {hook["name"]: hook["unmatched"] is not None for hook in client.call("hook.list")["hooks"]}
    assert (unmatched["lost"], unmatched["failures"]) == (True, False)
    with pytest.raises(InvalidParams, match="does not exist"):
        client.call("hook.test", {"name": "gone"})


def test_test_when_a_kind_is_named_then_a_change_of_that_kind_is_made_up(client: stoker.Client) -> None:
    answer = client.call("hook.test", {"name": "nightly", "on": "workflow.succeeded"})

    record = hook_record(client, answer["job"])

    assert (record["on"], record["seq"], record["workflow"]["name"]) == ("workflow.succeeded", 0, "nightly")
    assert [run["change"] for run in runs(client, "nightly") if run["job"] == answer["job"]] == [None]


def test_test_when_there_is_no_such_hook_then_the_names_are_given(client: stoker.Client) -> None:
    with pytest.raises(HookNotFound, match="there is no hook 'nightl'") as error:
        client.call("hook.test", {"name": "nightl"})

    assert error.value.hint == "did you mean nightly?"


def test_hook_when_the_host_is_busy_then_its_input_names_the_queue_that_waits(stopped_daemon: DaemonProcess) -> None:
    busy = "[cpu]\nthrottle_threshold = 0.1\nresume_threshold = 0.0\nsample_ms = 100\n[queues.low]\nclass = 'low'\n"
    stopped_daemon.config.write_text(f'{busy}[hooks.busy]\non = ["queue.throttled"]\nqueue = "low"\n{TELL}')
    with stopped_daemon.start().client() as client:
        run = until(lambda: runs(client, "busy"))[-1]

        record = hook_record(client, run["job"])

    assert (record["queue"], record["details"]["causes"]) == ("low", ["cpu"])
    assert record["summary"] == "queue low was throttled: cpu"


def test_hook_when_the_disk_is_low_then_it_runs_although_no_job_is_accepted(stopped_daemon: DaemonProcess) -> None:
    low = "[cpu]\nsample_ms = 100\n[disk]\nmin_free_bytes = 1_000_000_000_000\n[queues.hooks]\npaused = true\n"
    stopped_daemon.config.write_text(f'{low}[hooks.low]\non = ["disk.low"]\n{TELL}')
    with stopped_daemon.start().client() as client:
        (run,) = until(lambda: runs(client, "low"))
        waits = client.why(run["job"])["message"]
        client.call("queue.resume", {"name": "hooks"})

        record = hook_record(client, run["job"])

        with pytest.raises(DiskFull):
            submit(client, SUCCEED)
    assert record["details"]["min_free_bytes"] == 1_000_000_000_000
    assert record["summary"].startswith("the disk is low: ")
    assert waits == f"queue 'hooks' is paused; submitted by hook low for change {record['seq']}: {record['summary']}"


def test_hooks_when_their_queue_is_full_then_the_changes_are_counted_and_logged(daemon: DaemonProcess) -> None:
    daemon.config.write_text(f'[queues.hooks]\npaused = true\nmax_queued = 2\n[hooks.all]\non = ["job.failed"]\n{TELL}')
    daemon.cli("config", "reload")
    with daemon.client() as client:
        jobs = [submit(client, FAIL) for _ in range(5)]
        for job in jobs:
            end_of(client, job)

        (hook,) = client.call("hook.list")["hooks"]
        refused = daemon.rows(
            "SELECT payload FROM changes WHERE kind = 'hook' AND cause = 'refused' AND subject = 'all'"
        )

        assert hook["refused"] == 3
        assert sum(json.loads(payload)["changes"] for (payload,) in refused) == 3
        assert len(runs(client, "all")) == 2
        assert daemon.logged("hook_refused", hook="all")
        with pytest.raises(QueueFull, match="max_queued is 2"):
            client.call("hook.test", {"name": "all"})


def test_hooks_when_many_jobs_fail_then_each_change_has_one_job(stopped_daemon: DaemonProcess) -> None:
    hook = '[hooks.all]\non = ["job.failed"]\ncommand = "/bin/true"\n'
    stopped_daemon.config.write_text(f"[daemon]\nmax_running = 8\n{hook}")
    with stopped_daemon.start().client() as client:
        jobs = [{"command": "/bin/false"}] * STORM
        failing = sorted(job["id"] for job in client.call("job.submit_many", {"jobs": jobs})["jobs"])

        answered = 0
        while stopped_daemon.rows(UNFINISHED):
            submit(client, SUCCEED, run_at=32_503_680_000_000)
            answered += 1

        failures = stopped_daemon.rows(FAILURES)
        assert sorted(job for _, job in failures) == failing
        assert stopped_daemon.rows(TOLD) == [(seq,) for seq, _ in failures]
        assert client.call("hook.list")["hooks"][0]["refused"] == 0
    assert answered


def test_hooks_when_the_file_is_read_again_then_the_new_ones_are_in_force(daemon: DaemonProcess) -> None:
    with daemon.client() as client:
        daemon.config.write_text("")
        daemon.cli("config", "reload")
        end_of(client, submit(client, FAIL))
        daemon.config.write_text(f'[hooks.new]\non = ["job.failed"]\n{TELL}')
        assert daemon.cli("config", "reload").stdout == "changed: hooks.new\n"
        second = submit(client, FAIL)
        end_of(client, second)
        run = run_for(client, "new", second)
        daemon.config.write_text("")
        assert daemon.cli("config", "reload").stdout == "changed: hooks.new\n"
        end_of(client, submit(client, FAIL))

        assert client.call("hook.list")["hooks"] == []
        assert daemon.rows("SELECT id FROM jobs WHERE hook IS NOT NULL") == [(run["job"],)]


def test_hook_when_the_daemon_is_killed_with_its_job_then_the_start_runs_it(
    stopped_daemon: DaemonProcess, gate: Gate
) -> None:
    stopped_daemon.config.write_text(f'[hooks.starts]\non = ["daemon.recovered", "job.failed"]\n{TELL}')
    stopped_daemon.start()
    with stopped_daemon.client() as client:
        job = submit_running(client, gate.spec())

    stopped_daemon.kill_and_start()

    with stopped_daemon.client() as client:
        assert end_of(client, job) == ("failed", "orphaned")
        until(lambda: len(runs(client, "starts")) == 2)
        records = {
            record["on"]: record for record in (hook_record(client, run["job"]) for run in runs(client, "starts"))
        }
    assert records["job.failed"]["job"]["reason"] == "orphaned"
    assert records["daemon.recovered"]["details"]["attempts"] == 1
