"""Slurm by its own commands: sbatch, squeue, scancel, sacct. Arguments only, no shell, and every call has an end.

Owns the translation in both directions: options of a queue to options of sbatch, lines of squeue to jobs. Slurm has the
id of a run in the comment of its job, so the job is found again when the answer of sbatch was lost. It decides nothing.

Invariants: only the controller's word is an answer, and one that is away raises EngineAway; nothing of a client's is
among the arguments.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from stoker.cluster.engine import EngineAway, EngineFull, EngineRefused, name_of
from stoker.core.cluster import ClusterOptions, EngineJob, Phase

# The controller answers within MessageTimeout of slurm.conf (10 s), and the commands try again for a while.
CALL_S = 60.0
SEPARATOR = "\x1f"
COLUMNS = SEPARATOR.join(("%i", "%T", "%r", "%k"))  # comments come last: those of others may have any text
ACCOUNTED = "JobIDRaw,State,JobName%64"
PHASES = {
    "PENDING": Phase.WAITS, "REQUEUED": Phase.WAITS, "REQUEUE_HOLD": Phase.WAITS, "REQUEUE_FED": Phase.WAITS,
    "SPECIAL_EXIT": Phase.WAITS, "RESV_DEL_HOLD": Phase.WAITS, "CONFIGURING": Phase.WAITS,
    "RUNNING": Phase.RUNS, "COMPLETING": Phase.RUNS, "STAGE_OUT": Phase.RUNS, "SIGNALING": Phase.RUNS,
    "RESIZING": Phase.RUNS, "STOPPED": Phase.RUNS, "SUSPENDED": Phase.RUNS,
}  # fmt: skip
# The commands get these variables of the daemon and no others: sbatch sends all of its own to the node, and SQUEUE_*
# or SBATCH_* would add options. With any `--export` but ALL the node runs a login shell of the user for each job, and
# `srun` in the job exports nothing.
# The other variables of Slurm are those of a job or a person: SLURM_CLUSTERS would choose another cluster, and all
# would be sent to the node. SLURM_JWT names the user where the cluster asks for it; the node keeps it from the job.
VARIABLES = ("PATH", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT")
# How Slurm's commands begin to complain that the controller did not answer (slurm_errno.h).
AWAY = (
    "Unable to contact slurm controller",
    "Could not establish a configuration source",
    "Slurm backup controller in standby mode",
    "Communication connection failure",
    "Socket timed out",
    "Connection refused",
    "Zero Bytes were transmitted or received",
    "Slurm temporarily unable to accept job",
    "Resource temporarily unavailable",
)
# How sbatch names a limit for the jobs that a user, an account or a QOS has at a time (job_state_reason of Slurm).
FULL = ("AssocMaxSubmitJob", "AssocGrpSubmitJob", "QOSMaxSubmitJob", "QOSGrpSubmitJob")


class Slurm:
    """Every call starts a process and may take up to CALL_S: none belongs into the event loop."""

    def submit(
        self, run_id: str, name: str, script: Path, arguments: Sequence[str], errors: Path, options: ClusterOptions
    ) -> int:
        """The id of the job. `errors` gets what the script complains of. Raises EngineRefused, EngineFull, or
        EngineAway, after which the job may exist.
        """
        command = [
            "sbatch", "--parsable", "--no-requeue", f"--job-name={name}", f"--comment={run_id}", "--export=ALL",
            "--chdir=/", "--input=/dev/null", f"--output={str(errors).replace('%', '%%')}", *asked(options),
            str(script), *arguments,
        ]  # fmt: skip
        answer = _call(command)
        return int(answer.split(";")[0])

    def jobs(self) -> dict[str, EngineJob]:
        """The jobs of this user that have a run, by its id; also those that ended in the last minutes (MinJobAge).

        Raises EngineAway.
        """
        listed = _call(["squeue", "--me", "--noheader", "--states=all", f"--format={COLUMNS}"])
        jobs = (_job(line) for line in listed.split("\n") if line)
        return {job.run_id: job for job in jobs if job is not None}

    def accounts(self, runs: Mapping[int, str]) -> list[EngineJob]:
        """The jobs that are over by Slurm's accounts, which outlast the list of the controller. `runs`: by number.

        Raises EngineAway or EngineRefused, also where there are no accounts.
        """
        numbers = ",".join(map(str, runs))
        said = _call(
            ["sacct", "--noheader", "--parsable2", "--allocations", f"--format={ACCOUNTED}", f"--jobs={numbers}"]
        )
        ended = (_ended(line, runs) for line in said.split("\n") if line)
        return [job for job in ended if job is not None]

    def signal(self, job: int, name: str, signum: int) -> None:
        """Send a signal to the batch script, which stops the run at SIGTERM, warns it at SIGUSR1, and passes over
        any other.

        Raises EngineAway, or EngineRefused if the job is over.
        """
        _call(["scancel", "--batch", f"--signal={int(signum)}", f"--name={name}", str(job)])

    def cancel(self, jobs: Mapping[int, str]) -> None:
        """Remove jobs that wait, and kill those that run. Raises EngineAway."""
        for job, name in jobs.items():  # scancel takes one name
            with contextlib.suppress(EngineRefused):  # it is over; the others go
                _call(["scancel", "--quiet", f"--name={name}", str(job)])


def asked(options: ClusterOptions) -> list[str]:
    """The wishes of a queue as options of sbatch and srun."""
    named = {
        "partition": options.partition,
        "account": options.account,
        "qos": options.qos,
        "constraint": options.constraint,
        "cpus-per-task": options.cpus,
        "mem": None if options.memory_mb is None else f"{options.memory_mb}M",
        "gpus": options.gpus,
        "time": None if options.time_ms is None else _minutes(options.time_ms),
    }
    return [f"--{name}={value}" for name, value in named.items() if value is not None] + list(options.extra)


def _minutes(time_ms: int) -> str:
    """As Slurm writes it: minutes and seconds. Rounded up, as 0 means no limit."""
    minutes, seconds = divmod(-(-time_ms // 1_000), 60)
    return f"{minutes}:{seconds:02}"


def _job(line: str) -> EngineJob | None:
    """None for a job of this user that is not ours, or a further line of its comment."""
    number, *words = line.split(SEPARATOR, 3)
    if not number.isdecimal() or len(words) != 3:  # noqa: PLR2004 - state, reason, comment
        return None
    state, reason, run_id = words
    if run_id.count(".") != 2:  # noqa: PLR2004
        return None
    return EngineJob(int(number), run_id, PHASES.get(state, Phase.OVER), state, reason)


def _ended(line: str, runs: Mapping[int, str]) -> EngineJob | None:
    """None for a job that goes on, or that only has the number of a job of ours: its name may have any text."""
    number, _, words = line.partition("|")
    state, _, name = words.partition("|")
    word = state.split(" ")[0]  # "CANCELLED by 1000"
    run_id = runs.get(int(number)) if number.isdecimal() else None
    if run_id is None or name != name_of(run_id) or PHASES.get(word, Phase.OVER) is not Phase.OVER:
        return None
    return EngineJob(int(number), run_id, Phase.OVER, word, "by its accounts")


def _environ() -> dict[str, str]:
    return {name: text for name, text in os.environ.items() if name in VARIABLES}


def _call(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(  # noqa: S603 - a command of Slurm, and arguments that this module made
            command, env=_environ(), capture_output=True, text=True, errors="replace", timeout=CALL_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise EngineAway(f"{command[0]} did not end within {CALL_S:g} s") from error
    except FileNotFoundError as error:
        raise EngineAway(f"{command[0]} is not installed (Debian: slurm-client)") from error
    if done.returncode == 0:
        return done.stdout
    if done.returncode < 0:  # it may have done its work before
        raise EngineAway(f"{command[0]} was ended by signal {-done.returncode}")
    said = done.stderr.strip().removeprefix(f"{command[0]}: ").removeprefix("error: ")
    if any(words in done.stderr for words in AWAY):
        raise EngineAway(f"{command[0]}: {said}")
    if any(words in done.stderr for words in FULL):
        first_line = said.split("\n")[0]
        raise EngineFull(f"{command[0]}: {first_line}")
    raise EngineRefused(f"{command[0]}: {said}")
