"""A failed workflow: logged, archived completely and once, analysed; and stale steps are shown.

Owns the event, the file and the words. tests/core tests how the cause is found.
"""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING, Any

from tests.support.facts import until
from tests.support.flows import chain, job_of, sent_flow, settled, step, workflow_view
from tests.support.work import running, submit, submit_running

if TYPE_CHECKING:
    from pathlib import Path

    import stoker
    from tests.support.daemon import DaemonProcess
    from tests.support.work import Gate

SETTINGS = "[daemon]\nmax_running = 8\n[workflows]\nstale_ms = 1\n"


def archive_of(client: stoker.Client, workflow: int) -> str:
    path: str = until(lambda: workflow_view(client, workflow)["archive"], why=f"the archive of workflow {workflow}")
    return path


def unpacked(path: str) -> dict[str, Any]:
    with gzip.open(path) as packed:
        archive: dict[str, Any] = json.load(packed)
    return archive


def test_failed_workflow_when_it_ends_then_it_is_logged_and_archived_whole(
    shared: DaemonProcess, client: stoker.Client
) -> None:
    workflow = sent_flow(
        client,
        {"a": step("echo key=value > $STOKER_OUTPUT"), "b": step("echo broken; exit 3", "a"), "c": step("exit 0", "b")},
    )
    assert settled(client, workflow) == "failed"

    path = archive_of(client, workflow)

    finished_at = workflow_view(client, workflow)["finished_at"]
    assert path == str(shared.state_dir / "archive" / f"workflow-{workflow}-{finished_at}.json.gz")
    kept = unpacked(path)
    assert (kept["workflow"]["state"], sorted(kept["flow"]["flow"]["steps"])) == ("failed", ["a", "b", "c"])
    assert [one["step"] for one in kept["steps"]] == ["a", "b", "c"]
    assert [one["seq"] for one in kept["checkpoints"]] == [one["seq"] for one in chain(client, workflow=workflow)]
    assert {one["step"]: one["tail"] for one in kept["logs"]} == {"a": "", "b": "broken\n"}
    causes = [one["cause"] for one in kept["changes"] if one["kind"] == "workflow"]
    assert (causes[0], causes[-1]) == ("submitted", "failed")
    assert {one["job_id"] for one in kept["attempts"]} == {job_of(client, workflow, name) for name in "ab"}
    (logged,) = shared.logged("workflow_failed", workflow=workflow)
    assert logged["steps"] == ["b", "c"]


def test_archive_when_a_workflow_fails_again_then_each_end_has_its_own(client: stoker.Client) -> None:
    workflow = sent_flow(client, {"a": step("exit 1")})
    settled(client, workflow)
    first = archive_of(client, workflow)

    client.call("workflow.retry", {"id": workflow})

    second = until(
        lambda: (path := workflow_view(client, workflow)["archive"]) != first and path, why="another archive"
    )
    assert unpacked(first)["workflow"]["finished_at"] < unpacked(str(second))["workflow"]["finished_at"]


def test_archive_when_the_daemon_died_before_it_then_the_next_start_writes_it(
    daemon: DaemonProcess,
) -> None:
    with daemon.client() as client:
        workflow = sent_flow(client, {"a": step("exit 1")})
        settled(client, workflow)
        path = archive_of(client, workflow)
        before = unpacked(path)
    daemon.kill9()
    for left in (daemon.state_dir / "archive").iterdir():
        left.unlink()
    (daemon.state_dir / "archive" / f"workflow-{workflow}-0.json.gz.new").touch()

    daemon.start()

    with daemon.client() as client:
        assert unpacked(archive_of(client, workflow)) == before


def test_archive_when_it_cannot_be_written_then_that_is_only_logged(
    daemon: DaemonProcess,
) -> None:
    (daemon.state_dir / "archive").write_text("in the way")
    with daemon.client() as client:
        workflow = sent_flow(client, {"a": step("exit 1")})

        assert settled(client, workflow) == "failed"

        until(lambda: daemon.events("archive_failed"), why="the complaint")
        assert workflow_view(client, workflow)["archive"] is None
        assert client.call("system.health")["ok"]


def test_analysis_when_asked_then_it_says_why_and_what_to_type(client: stoker.Client) -> None:
    late = sent_flow(client, {"a": step("exec sleep 600", timeout_ms=100), "b": step("exit 0", "a")})
    well = sent_flow(client, {"a": step("exit 0")})
    settled(client, late)
    settled(client, well)

    analysis = analysis_of(client, late)

    assert analysis is not None
    assert (analysis["scope"], analysis["critical"], analysis["roots"], analysis["blocked"]) == (
        "total", True, ["a"], ["b"],
    )  # fmt: skip
    assert analysis["causes"] == {"timeout": ["a"], "dependency": ["b"]}
    assert analysis["next"] == f"stoker workflow retry {late} --failed --timeout 1s"
    assert analysis_of(client, well) is None


def test_analysis_when_limits_and_resources_hindered_steps_then_each_has_its_cause(
    client: stoker.Client, gate: Gate, tmp_path: Path
) -> None:
    client.call("resource.set", {"name": "press", "capacity": 1})
    submit_running(client, gate.spec(), resources={"press": 1})
    full = step(f"exec head -c 100000 /dev/zero > {tmp_path}/file", limits={"file_size_bytes": 4_096})
    workflow = sent_flow(
        client,
        {
            "full": full,
            "waits": {"each": ["1", "2"], "width": 1, **step("exit 0", resources={"press": 1}, ttl_ms=100)},
        },
    )  # fmt: skip
    settled(client, workflow)

    analysis = analysis_of(client, workflow)

    assert analysis is not None
    assert analysis["causes"] == {"file_size_limit": ["full"], "resources": ["waits[1]", "waits[2]"]}
    assert (analysis["scope"], analysis["next"]) == ("systemic", "stoker resource ls")
    waited = "waits[1] waited for longer than allowed before there was room (waits[1]: it asks for press), and 1 more"
    assert f"{waited} likewise" in analysis["message"]


def analysis_of(client: stoker.Client, workflow: int) -> dict[str, Any] | None:
    analysis: dict[str, Any] | None = client.call("workflow.get", {"id": workflow, "analyse": True})["analysis"]
    return analysis


def test_stale_when_a_running_attempt_has_not_saved_for_long_then_it_is_reported(
    shared: DaemonProcess, client: stoker.Client, gate: Gate
) -> None:
    workflow = sent_flow(client, {"a": step(f"read _ < {gate.path}; :"), "b": step("exit 0", "a")})
    plain = submit(client, gate.spec())
    running(client, job_of(client, workflow, "a"), plain)

    (stale,) = until(lambda: workflow_view(client, workflow)["stale"], why="the stale step")

    assert (stale["step"], stale["job"]) == ("a", job_of(client, workflow, "a"))
    assert stale["age_ms"] > 1
    of_all = [one["job"] for one in client.call("system.status")["stale_checkpoints"]]
    assert stale["job"] in of_all
    assert plain not in of_all

    def ls() -> str:
        return shared.cli("ls", "--state", "running").stdout

    assert ["no checkpoint for" in line for line in ls().splitlines()[1:]] == [False, True]  # the newest first
    assert "has left no checkpoint for" in client.call("job.why", {"id": stale["job"]})["message"]
    assert f"a (job {stale['job']}) has saved no checkpoint for" in shared.cli("status").stdout
    (event,) = until(
        lambda: [event for event in shared.events("checkpoint_stale") if event["job"] == stale["job"]],
        why="the line in the log",
    )
    assert (event["level"], event["workflow"], event["step"]) == ("warning", workflow, "a")
    gate.open()
    assert settled(client, workflow) == "succeeded"
    assert workflow_view(client, workflow)["stale"] == []
    assert client.get(stale["job"])["stale_ms"] is None


def test_stale_when_the_limit_is_lowered_then_the_next_answers_and_the_log_show_it(
    stopped_daemon: DaemonProcess, gate: Gate
) -> None:
    stopped_daemon.config.write_text("")
    with stopped_daemon.start().client() as client:
        job = job_of(client, sent_flow(client, {"a": step(f"read _ < {gate.path}; :")}), "a")
        running(client, job)
        before = client.call("job.why", {"id": job})["details"]
        stopped_daemon.config.write_text("[workflows]\nstale_ms = 1\n")

        client.call("system.reload")

        assert "stale_ms" not in before
        assert client.call("job.why", {"id": job})["details"]["stale_ms"] > 1
        assert [(view["stale_ms"] or 0) > 1 for view in (client.get(job), *client.list()["jobs"])] == [True, True]
        until(
            lambda: [event["job"] for event in stopped_daemon.events("checkpoint_stale")] == [job],
            why="the line in the log",
        )
