"""Jobs of a queue with a backend, on a real Slurm: the same life as at home, and the failures of both sides.

Owns one cluster and one daemon for all of its tests. A test that takes a part away puts it back.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

import stoker
from stoker.cluster.slurm import Slurm as SlurmCommands
from stoker.core.errors import InvalidParams
from stoker.executors.cluster import HANDED_AT_ONCE
from tests.support.daemon import DaemonProcess
from tests.support.facts import DEADLINE_S, scales, until, until_empty
from tests.support.slurm import Slurm, why_not
from tests.support.work import Gate, alive, attempts_of, end_of, job_view, lines, running, shell, submit

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))

SETTINGS = """
[cluster]
directory = "{home}/shared"
[queues.hpc]
backend = "slurm"
[queues.hpc.slurm]
partition = "main"
cpus = 1
[queues.down]
backend = "slurm"
[queues.down.slurm]
partition = "down"
[queues.nowhere]
backend = "slurm"
[queues.nowhere.slurm]
partition = "nowhere"
[queues.deep]
max_running = 1
overflow = "hpc"
overflow_above = 2
[queues.low]
class = "low"
overflow = "hpc"
[cpu]
throttle_threshold = 0.1
resume_threshold = 0.0
sample_ms = 200
"""
# Variables of the person who started the daemon, which would add options to Slurm's commands.
OF_A_PERSON = {"SQUEUE_PARTITION": "down", "SBATCH_WAIT": "1", "SLURM_ARRAY_TASK_ID": "7"}
RETRIED = {"max_attempts": 2, "base_delay_ms": 0}


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    with Slurm() as one:
        yield one


@pytest.fixture(scope="module")
def daemon(slurm: Slurm) -> Iterator[DaemonProcess]:
    one = DaemonProcess(environ={**slurm.environ, **OF_A_PERSON})
    one.config.write_text(SETTINGS.format(home=one.home))
    with one:
        yield one


@pytest.fixture
def client(daemon: DaemonProcess) -> Iterator[stoker.Client]:
    with daemon.client() as one:
        yield one


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    one = Gate(tmp_path / "gate")
    yield one
    one.open()


def on_cluster(script: str, **options: Any) -> dict[str, Any]:
    return shell(script, queue="hpc", **options)


def begun(client: stoker.Client, spec: dict[str, Any]) -> int:
    """The id of a job that a node has begun. It has no pid here."""
    job = submit(client, spec)
    until(lambda: job_view(client, job)["started_at"], why=f"job {job} on a node")
    return job


def saved(client: stoker.Client, job: int) -> list[str]:
    """The status of each checkpoint of a job, newest first."""
    return [one["status"] for one in client.call("checkpoint.list", {"job": job})["checkpoints"]]


def why(client: stoker.Client, job: int) -> Any:
    return client.call("job.why", {"id": job})


def test_job_when_its_queue_has_a_backend_then_its_log_and_its_end_come_home(
    daemon: DaemonProcess, client: stoker.Client
) -> None:
    job = submit(client, on_cluster('echo "in $SLURM_JOB_ID"; exit 3'))

    assert end_of(client, job) == ("failed", "exit")
    view = job_view(client, job)
    assert (view["exit_code"], view["execution_mode"]) == (3, "cluster")
    log = daemon.cli("logs", str(job)).stdout
    assert log.startswith("in ")
    assert log.split()[1].isdecimal()
    (attempt,) = attempts_of(client, job)
    assert (attempt["launcher"], attempt["log_bytes"]) == ("cluster", len(log))


def test_job_when_a_person_has_jobs_with_any_comment_then_it_runs(slurm: Slurm, client: stoker.Client) -> None:
    held = ("sbatch", "--parsable", "--hold", "--wrap=:", "--output=/dev/null")
    comments = ("of two\nlines", "with \x1f of \x1f ours", "1.2.3")
    others = [slurm.run(*held, f"--comment={comment}").strip() for comment in comments]
    others.append(slurm.run(*held, "--comment=1.2.3", "--array=0-1").strip())

    assert end_of(client, submit(client, on_cluster("exit 3"))) == ("failed", "exit")

    slurm.run("scancel", *others)


def test_node_when_it_starts_a_job_then_no_login_shell_of_the_user_has_run(
    daemon: DaemonProcess, client: stoker.Client
) -> None:
    job = submit(client, on_cluster('tr "\\0" "\\n" < /proc/$PPID/environ; env'))

    assert end_of(client, job) == ("succeeded", "exit")
    names = {line.partition("=")[0] for line in daemon.cli("logs", str(job)).stdout.splitlines()}
    assert "SLURM_JOB_ID" in names
    assert not names & {"SLURM_GET_USER_ENV", "SLURM_EXPORT_ENV", "MAIL", *OF_A_PERSON}


def test_step_when_it_needs_one_on_the_cluster_then_it_gets_its_outputs_at_home(client: stoker.Client) -> None:
    there = submit(client, on_cluster('echo "path=/data/x" >> "$STOKER_OUTPUT"'))
    here = submit(client, shell('case "$STOKER_INPUTS" in *\'"/data/x"\'*) exit 0;; esac; exit 1'), needs=[there])
    back = submit(client, on_cluster('grep -q succeeded "$STOKER_INPUTS_FILE" && exit 5'), needs=[here])

    assert end_of(client, here) == ("succeeded", "exit")
    assert end_of(client, back) == ("failed", "exit")
    assert job_view(client, back)["exit_code"] == 5


def test_checkpoint_when_a_node_saves_it_then_the_next_attempt_goes_on_from_there(
    daemon: DaemonProcess, client: stoker.Client, gate: Gate
) -> None:
    first = (
        f'cd "$STOKER_CHECKPOINT_DIR"; echo epoch 12 > a.status; printf 12 > .a; mv .a a; read _ < {gate.path}; exit 1'
    )
    then = 'test "$(cat "$STOKER_CHECKPOINT")" = 12 && printf 13 | stoker checkpoint save --status "epoch 13"'
    job = submit(client, on_cluster(f'[ "$STOKER_ATTEMPT" = 2 ] || {{ {first}; }}; {then}', **RETRIED))
    until(lambda: saved(client, job) == ["epoch 12"], why="a checkpoint of a run that goes on")

    gate.open()

    assert end_of(client, job) == ("succeeded", "exit")
    assert saved(client, job) == ["epoch 13", "epoch 12"]
    newest = client.call("checkpoint.list", {"job": job})["checkpoints"][0]["id"]
    assert client.checkpoint_data(newest) == b"13"
    assert daemon.cli("logs", str(job)).stdout == ""


def test_job_when_it_puts_other_things_in_place_of_its_files_then_it_ends(client: stoker.Client) -> None:
    job = submit(
        client,
        on_cluster(
            'cd "${STOKER_CHECKPOINT_DIR%/*}"; rm -r saves; touch saves; rm -f output; mkfifo output; exec sleep 1'
        ),
    )
    other = submit(client, on_cluster("exit 0"))

    assert [end_of(client, one) for one in (other, job)] == [("succeeded", "exit")] * 2


def test_cancel_when_processes_have_left_the_session_then_they_are_stopped_too(
    daemon: DaemonProcess, client: stoker.Client, gate: Gate
) -> None:
    pids = daemon.home / "pids"
    script = f"setsid sh -c 'echo $$ >> {pids}; read _ < {gate.path}' & read _ < {gate.path}"
    job = begun(client, on_cluster(script))
    until(lambda: pids.exists() and lines(pids), why="the pid of a process in a session of its own")
    assert why(client, job)["code"] == "running"

    client.call("job.cancel", {"id": job})

    assert end_of(client, job) == ("cancelled", "user")
    assert not alive(int(lines(pids)[0]))


def test_time_limit_when_a_job_is_on_the_cluster_then_it_is_stopped(client: stoker.Client, gate: Gate) -> None:
    job = submit(client, on_cluster(f"read _ < {gate.path}", timeout_ms=500, grace_ms=500))

    assert end_of(client, job) == ("failed", "timeout")


def test_warning_when_a_limit_comes_near_then_the_node_sends_the_signal(
    daemon: DaemonProcess, client: stoker.Client
) -> None:
    for before_ms in scales(1_000):
        ready = daemon.home / f"ready-{before_ms}"
        warned = {"warn_signal": int(signal.SIGUSR2), "timeout_ms": 3_600_000, "warn_before_ms": 3_600_000 - before_ms}
        job = submit(client, on_cluster(f"trap 'exit 4' USR2; : > {ready}; while :; do sleep 0.1; done", **warned))
        assert end_of(client, job)[0] == "failed"
        if ready.exists():
            break

    view = job_view(client, job)
    assert (view["reason"], view["exit_code"], len(attempts_of(client, job))) == ("exit", 4, 1)


def test_daemon_when_it_is_killed_then_the_next_one_takes_the_runs_over(
    daemon: DaemonProcess, client: stoker.Client, gate: Gate
) -> None:
    ledger = daemon.home / "ledger"
    script = f"echo begin >> {ledger}; read _ < {gate.path}"
    job = submit(client, on_cluster(f"{script}; echo end >> {ledger}; exit 7"))
    meanwhile = submit(client, on_cluster(f"{script}; exit 8"))
    until(lambda: ledger.exists() and lines(ledger) == ["begin", "begin"], why="both began")

    daemon.kill9()
    gate.open()
    until(lambda: lines(ledger) == ["begin", "begin", "end"], why="the end of a run without a daemon")
    daemon.start()

    with daemon.client() as later:
        assert end_of(later, job) == ("failed", "exit")
        assert end_of(later, meanwhile) == ("failed", "exit")
        assert [job_view(later, one)["exit_code"] for one in (job, meanwhile)] == [7, 8]
        assert [len(attempts_of(later, one)) for one in (job, meanwhile)] == [1, 1]
    assert lines(ledger) == ["begin", "begin", "end"]


def test_controller_when_it_is_away_then_the_queue_waits_and_runs_go_on(
    slurm: Slurm, client: stoker.Client, gate: Gate
) -> None:
    before = begun(client, on_cluster(f"read _ < {gate.path}; exit 7"))
    slurm.stop_controller()
    handed = [submit(client, on_cluster("exit 9")) for _ in range(HANDED_AT_ONCE + 2)]
    for job in handed:
        client.call("job.cancel", {"id": job})
    assert {end_of(client, job) for job in handed} == {("cancelled", "user")}
    assert {len(attempts_of(client, job)) for job in handed} == {1}
    during = submit(client, on_cluster("exit 9"))
    until(lambda: why(client, during)["code"] == "cluster_away", why="the engine is away")
    gate.open()

    assert end_of(client, before) == ("failed", "exit")
    assert job_view(client, before)["exit_code"] == 7
    slurm.start("slurmctld")

    assert end_of(client, during) == ("failed", "exit")
    assert job_view(client, during)["exit_code"] == 9
    names = {f"stoker-{job}" for job in handed}
    until(lambda: not names & set(slurm.run("squeue", "--noheader", "--format=%j").split()), why="only wanted jobs")


def test_job_when_a_person_cancels_it_in_slurm_then_it_failed_for_that_reason(
    slurm: Slurm, client: stoker.Client
) -> None:
    job = submit(client, shell(":", queue="down"))
    waits = until(lambda: (found := why(client, job))["code"] == "cluster_waits" and found["details"] and found)
    until(lambda: "its partition is down" in why(client, job)["message"], why="the reason of Slurm")

    slurm.run("scancel", str(waits["details"]["engine_job"]))

    assert end_of(client, job) == ("failed", "spawn_error")
    assert "was cancelled before it started" in attempts_of(client, job)[0]["error"]


def test_job_when_a_person_requeues_it_in_slurm_then_slurm_does_not_keep_it(
    daemon: DaemonProcess, slurm: Slurm, client: stoker.Client, gate: Gate
) -> None:
    ledger = daemon.home / "requeued"
    job = begun(client, on_cluster(f"echo $SLURM_JOB_ID >> {ledger}; read _ < {gate.path}", on_orphan="fail"))
    number = until(lambda: lines(ledger), why="the number of its job in Slurm")[0]

    slurm.run("scontrol", "update", f"JobId={number}", "Requeue=1")
    slurm.run("scontrol", "requeue", number)

    assert end_of(client, job)[0] == "failed"
    assert attempts_of(client, job)[0]["outcome"] == "signal"
    until(lambda: number not in slurm.run("squeue", "--noheader", "--format=%i").split(), why=f"the end of {number}")
    until_empty(lambda: [path for path in daemon.home.glob("shared/*/*") if path.name.startswith(f"{job}.")])
    assert lines(ledger) == [number]


def test_job_when_it_is_cancelled_while_slurm_has_it_then_slurm_drops_it(slurm: Slurm, client: stoker.Client) -> None:
    job = submit(client, shell(":", queue="down"))
    waits = until(lambda: (found := why(client, job))["code"] == "cluster_waits" and found["details"] and found)

    client.call("job.cancel", {"id": job})

    assert end_of(client, job) == ("cancelled", "user")
    number = str(waits["details"]["engine_job"])
    until(lambda: number not in slurm.run("squeue", "--noheader", "--format=%i").split(), why=f"the end of {number}")


def test_drain_to_when_a_queue_is_on_the_cluster_then_jobs_move_between_both(
    daemon: DaemonProcess, client: stoker.Client
) -> None:
    for queue in ("home", "back"):
        client.call("queue.set", {"name": queue})
        client.call("queue.pause", {"name": queue})
    bound = submit(client, shell(":", queue="home", heartbeat_ms=20_000))
    there, again = (submit(client, shell("exit 3", queue="home")) for _ in range(2))

    moved = daemon.cli("queue", "drain-to", "hpc", "--from", "home", "--limit", "1")
    assert (moved.returncode, moved.stdout) == (65, "1 job moved to hpc\n"), "one that stays counts for no limit"
    assert end_of(client, there) == ("failed", "exit")
    assert (job_view(client, there)["execution_mode"], job_view(client, again)["queue"]) == ("cluster", "home")

    same = daemon.cli("queue", "drain-to", "hpc", "--from", "home", "--from", "hpc")
    assert (same.returncode, "--from hpc: its jobs are there already" in same.stderr) == (64, True)
    assert "backend of hpc      slurm\n" in daemon.cli("queue", "ls").stdout

    moved = daemon.cli("queue", "drain-to", "down", "--from", "home")
    assert (moved.returncode, moved.stdout) == (65, "1 job moved to down\n")
    assert f"job {bound}: heartbeat_ms: a node of a cluster cannot reach the daemon's socket" in moved.stderr
    client.call("job.edit", {"id": bound, "queue": "back"})
    assert (job_view(client, bound)["execution_mode"], job_view(client, bound)["queue"]) == ("subprocess", "back")


def test_queue_when_it_is_too_deep_then_jobs_that_can_go_run_on_the_cluster(
    daemon: DaemonProcess, client: stoker.Client, gate: Gate
) -> None:
    running(client, submit(client, shell(f"read _ < {gate.path}", queue="deep")))
    bound = submit(client, shell("exit 3", queue="deep", heartbeat_ms=20_000))
    deep = [submit(client, shell("exit 3", queue="deep")) for _ in range(3)]

    assert {end_of(client, job) for job in deep[:2]} == {("failed", "exit")}
    views = [job_view(client, job) for job in (*deep, bound)]
    assert [view["queue"] for view in views] == ["hpc", "hpc", "deep", "deep"]
    assert [view["execution_mode"] for view in views[:2]] == ["cluster"] * 2
    assert "overflow of queue deep: depth" in daemon.cli("history", str(deep[0])).stdout
    assert why(client, deep[2])["message"].endswith("; its queue overflows to 'hpc'")
    assert "but this job stays: heartbeat_ms: a node of a cluster cannot reach" in why(client, bound)["message"]
    assert "overflow of deep    to hpc, under pressure and above 2 queued\n" in daemon.cli("queue", "ls").stdout
    assert daemon.logged("queue_overflowed", queue="deep", to="hpc")
    gate.open()
    assert [end_of(client, job) for job in (bound, deep[2])] == [("failed", "exit")] * 2


def test_queue_when_the_host_is_busy_then_its_jobs_run_on_the_cluster(
    daemon: DaemonProcess, client: stoker.Client
) -> None:
    until(lambda: client.call("system.status")["pressure"]["throttled"], why="a busy host")

    job = submit(client, shell("exit 3", queue="low"))

    assert end_of(client, job) == ("failed", "exit")
    assert (job_view(client, job)["queue"], job_view(client, job)["execution_mode"]) == ("hpc", "cluster")
    assert "overflow of queue low: pressure" in daemon.cli("history", str(job)).stdout


def test_overflow_when_the_settings_are_loaded_again_then_new_queues_have_it(
    daemon: DaemonProcess, client: stoker.Client, gate: Gate
) -> None:
    late = '[queues.late]\nmax_running = 1\noverflow = "hpc"\noverflow_above = 1\n'
    daemon.config.write_text(daemon.config.read_text() + late)
    client.call("system.reload")
    running(client, submit(client, shell(f"read _ < {gate.path}", queue="late")))

    job, stays = (submit(client, shell("exit 3", queue="late")) for _ in range(2))

    assert end_of(client, job) == ("failed", "exit")
    assert [job_view(client, one)["queue"] for one in (job, stays)] == ["hpc", "late"]


def test_job_when_a_person_brings_it_back_then_it_overflows_no_more(client: stoker.Client, gate: Gate) -> None:
    client.call("queue.pause", {"name": "hpc"})
    running(client, submit(client, shell(f"read _ < {gate.path}", queue="deep")))
    back = submit(client, on_cluster(":"))
    client.call("job.edit", {"id": back, "queue": "deep"})
    client.call("queue.resume", {"name": "hpc"})

    others = [submit(client, shell(":", queue="deep")) for _ in range(3)]

    assert {end_of(client, job) for job in others[:2]} == {("succeeded", "exit")}
    assert [job_view(client, job)["queue"] for job in (*others, back)] == ["hpc", "hpc", "deep", "deep"]
    assert why(client, back)["message"].endswith("it was moved between queues before, and a job overflows once")
    gate.open()
    assert [end_of(client, job) for job in (others[2], back)] == [("succeeded", "exit")] * 2


def test_edit_when_a_job_comes_back_from_a_cluster_queue_then_it_runs_at_home(client: stoker.Client) -> None:
    client.call("queue.pause", {"name": "hpc"})
    job = submit(client, on_cluster("exit 3"))

    client.call("job.edit", {"id": job, "queue": "default"})
    client.call("queue.resume", {"name": "hpc"})

    assert end_of(client, job) == ("failed", "exit")
    assert job_view(client, job)["execution_mode"] == "subprocess"
    assert attempts_of(client, job)[0]["launcher"] != "cluster"


def test_submit_when_slurm_refuses_the_partition_then_the_job_fails_with_its_words(client: stoker.Client) -> None:
    job = submit(client, shell(":", queue="nowhere"))

    assert end_of(client, job) == ("failed", "spawn_error")
    assert "invalid partition" in attempts_of(client, job)[0]["error"].lower()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"survive": True}, "survive: a job on a cluster always outlives the daemon"),
        ({"heartbeat_ms": 1_000}, "heartbeat_ms: a node of a cluster cannot reach the daemon's socket"),
        ({"execution_mode": "cluster", "queue": "default"}, "execution_mode: cluster: only a queue can give it"),
        (
            {"execution_mode": "in_process", "command": "stoker.tidy"},
            "execution_mode: a handler runs inside the daemon, and queue 'hpc' hands its jobs to a cluster",
        ),
    ],
)
def test_submit_when_a_cluster_cannot_give_it_then_it_is_refused(
    client: stoker.Client, asked: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidParams) as refused:
        submit(client, {**on_cluster(":"), **asked})

    assert refused.value.message == message


def test_run_when_a_restored_state_does_not_know_it_then_it_is_stopped(
    daemon: DaemonProcess, client: stoker.Client, gate: Gate
) -> None:
    backup = daemon.cli("backup", "--json")
    pids = daemon.home / "unknown"
    job = submit(client, on_cluster(f"echo $$ > {pids}; read _ < {gate.path}"))
    until(lambda: lines(pids), why="a run that the backup does not know")

    assert daemon.stop() == 0
    source = json.loads(backup.stdout)["path"]
    restored = daemon.cli("restore", "--from-backup", source, "--yes", "--state-dir", str(daemon.state_dir))
    assert restored.returncode == 0, restored.stderr
    daemon.start()

    until(lambda: not alive(int(lines(pids)[0])), why="the end of a run that the state does not know")
    until_empty(lambda: [path for path in daemon.home.glob("shared/*/*") if path.name.startswith(f"{job}.")])


def test_doctor_when_the_cluster_is_well_then_it_finds_nothing_about_it(daemon: DaemonProcess) -> None:
    report = json.loads(daemon.cli("doctor", "--json").stdout)

    about = [check for check in report["checks"] if check["group"] == "cluster"]
    assert [(check["result"], check["findings"]) for check in about] == [("ok", [])] * 4


def probing(daemon: DaemonProcess, queues: str, *options: str, path: str = "") -> subprocess.Popen[str]:
    """`stoker doctor --probe` for some queues. `path`: where it finds programs first."""
    config = daemon.home / "probed.toml"
    config.write_text(f'[cluster]\ndirectory = "{daemon.home}/shared"\n{queues}')
    command = [str(daemon.programs / "stoker"), "doctor", "--probe", "--json", "--config", str(config), *options]
    environ = {**daemon.client_environ, "PATH": f"{path}:{daemon.environ['PATH']}"}
    return subprocess.Popen(command, env=environ, text=True, stdout=subprocess.PIPE)


def probed(daemon: DaemonProcess, queues: str, *options: str, path: str = "") -> list[tuple[str, str, str]]:
    """The severity, message and remedy of each finding of probe jobs of some queues."""
    report = json.loads(probing(daemon, queues, *options, path=path).communicate(timeout=DEADLINE_S)[0])
    (check,) = (check for check in report["checks"] if check["name"] == "probe jobs")
    return [(one["severity"], one["message"], one["remedy"]) for one in check["findings"]]


def sbatch_then(directory: Path, then: str) -> None:
    """Put an sbatch there that goes on with a line of a script."""
    (directory / "sbatch").write_text(f'#!/bin/sh\n{shutil.which("sbatch")} "$@"\n{then}\n')
    (directory / "sbatch").chmod(0o755)


def probes(slurm: Slurm) -> list[str]:
    """The probe jobs that Slurm has."""
    return [name for name in slurm.run("squeue", "--noheader", "--format=%j").split() if name == "stoker-doctor"]


HPC = '[queues.hpc]\nbackend = "slurm"\n[queues.gpu]\nbackend = "slurm"\n'
DOWN = '[queues.down]\nbackend = "slurm"\n[queues.down.slurm]\npartition = "down"\n'
NOWHERE = '[queues.nowhere]\nbackend = "slurm"\n[queues.nowhere.slurm]\npartition = "nowhere"\n'


def test_probe_when_the_cluster_is_well_then_it_finds_and_leaves_nothing(slurm: Slurm, daemon: DaemonProcess) -> None:
    assert probed(daemon, HPC) == []

    assert "probes" not in {path.name for path in (daemon.home / "shared").iterdir()}
    until(lambda: not probes(slurm), why="its end")


def test_probe_when_nodes_do_not_share_the_directory_then_that_is_found(slurm: Slurm, daemon: DaemonProcess) -> None:
    shared = daemon.home / "shared"
    slurm.kill("slurmd")
    slurm.start("slurmd", hidden=shared)
    try:
        ((severity, message, remedy),) = probed(daemon, HPC)
    finally:
        slurm.kill("slurmd")
        slurm.start("slurmd")

    assert (severity, remedy) == ("error", f"srun ls -ld {shared}")
    assert message.startswith("queue hpc, gpu: its probe, job ")
    assert message.endswith(f" failed: its node cannot write to {shared}")


def test_probe_when_slurm_does_not_start_its_job_then_it_is_removed(slurm: Slurm, daemon: DaemonProcess) -> None:
    down, nowhere = probed(daemon, DOWN + NOWHERE, "--timeout", "1s")

    assert (down[0], down[2].split()[-3:]) == ("warning", ["--probe", "--timeout", "10m"])
    assert "did not start within" in down[1]
    assert nowhere[0] == "error"
    assert "queue nowhere: Slurm refuses its jobs: sbatch: " in nowhere[1]
    until(lambda: not probes(slurm), why="no probe")


def test_probe_when_the_number_of_its_job_is_lost_then_it_is_found_and_removed(
    slurm: Slurm, daemon: DaemonProcess, tmp_path: Path
) -> None:
    """Slurm has the job when it says that it did not answer in time."""
    sbatch_then(tmp_path, 'echo "sbatch: error: Socket timed out" >&2; exit 1')

    ((severity, message, _),) = probed(daemon, DOWN, "--timeout", "1s", path=str(tmp_path))

    assert (severity, "did not start within" in message) == ("warning", True), message
    until(lambda: not probes(slurm), why="no probe")


@pytest.mark.parametrize("then", ["", "exec sleep 600"])
def test_probe_when_a_signal_ends_the_command_then_nothing_is_left(
    slurm: Slurm, daemon: DaemonProcess, tmp_path: Path, then: str
) -> None:
    """It comes while the job waits, or while the doctor waits for the number of the job."""
    sbatch_then(tmp_path, then)
    command = probing(daemon, DOWN, "--timeout", "10m", path=str(tmp_path))
    until(lambda: probes(slurm), why="the probe")

    command.terminate()

    command.communicate(timeout=DEADLINE_S)
    assert command.returncode == 130
    assert "probes" not in {path.name for path in (daemon.home / "shared").iterdir()}
    until(lambda: not probes(slurm), why="no probe")


def test_drain_when_a_run_is_on_the_cluster_then_it_goes_on(
    daemon: DaemonProcess, client: stoker.Client, gate: Gate
) -> None:
    job = begun(client, on_cluster(f"read _ < {gate.path}; exit 7"))

    assert daemon.stop() == 0
    daemon.start()

    with daemon.client() as later:
        assert job_view(later, job)["state"] == "running"
        gate.open()
        assert end_of(later, job) == ("failed", "exit")
        assert job_view(later, job)["exit_code"] == 7


def test_cancel_when_the_number_is_of_another_job_then_that_stays(
    slurm: Slurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A controller that was killed may have given the number out again."""
    for name, value in slurm.environ.items():
        monkeypatch.setenv(name, value)
    submitted = slurm.run("sbatch", "--parsable", "--partition=down", "--job-name=other", "--wrap=true")
    number = int(submitted)

    SlurmCommands().cancel({number: "stoker-1"})
    assert slurm.run("squeue", "--noheader", "--format=%T", f"--jobs={number}").strip() == "PENDING"

    SlurmCommands().cancel({number: "other"})
    until(lambda: "PENDING" not in slurm.run("squeue", "--noheader", "--format=%T", f"--jobs={number}", check=False))
