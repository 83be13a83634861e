"""The checks of a cluster: the commands of its engine, the directory shared with its nodes, and the clocks of these.

Owns what claims of nodes tell about them. Refuses to start a job there: that is for `cluster_probe`, which waits in the
queue of the engine.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

from stoker.cluster.shared_directory import SharedDirectory
from stoker.core.cluster import ClaimedBy
from stoker.core.cluster_probe import wrong_clock
from stoker.core.errors import CorruptRecord
from stoker.ops.doctor.examination import Check, E, Examination, Needs, Symptom, W

COMMANDS = ("sbatch", "squeue", "scancel")
ANSWER_S = 30.0
OTHERS = stat.S_IRWXG | stat.S_IRWXO
MOST_CLAIMS = 1_000


def has_commands(examination: Examination) -> Iterator[Symptom | str]:
    """Each is asked for its version, for which it needs the settings of Slurm, but no controller."""
    if not _directory(examination):
        return
    environ = {**os.environ, **examination.host.environ}
    for name in COMMANDS:
        command = shutil.which(name, path=environ.get("PATH"))
        if command is None:
            yield Symptom(f"{name} is not installed", "install it (Debian: slurm-client)")
            continue
        try:
            done = subprocess.run(  # noqa: S603 - a command of Slurm without anything of a client's
                [command, "--version"], env=environ, capture_output=True, text=True, timeout=ANSWER_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            yield f"{name} --version: {error}"
            continue
        if done.returncode != 0:
            said = (done.stderr.strip() or f"exit status {done.returncode}").split("\n")[-1]
            yield Symptom(f"{name} --version: {said}", "give the daemon the settings of Slurm: SLURM_CONF")


def has_shared_directory(examination: Examination) -> Iterator[Symptom | str]:
    directory = _directory(examination)
    if not directory:
        return
    root = Path(directory)
    try:
        status = root.stat()
    except FileNotFoundError:
        if examination.daemon is not None:
            yield Symptom(f"{root} does not exist", f"make it, shared with the nodes: mkdir -m 700 {root}")
        return
    if not stat.S_ISDIR(status.st_mode):
        yield f"{root} is not a directory"
        return
    if status.st_mode & OTHERS:
        mode = f"{status.st_mode & 0o777:o}"
        rights = "they can read logs, and run jobs if they can write there"
        yield Symptom(f"others can enter {root} (mode {mode}): {rights}", f"chmod 700 {root}")
    if status.st_uid != examination.directory.root.stat().st_uid:
        yield Symptom(f"{root} belongs to uid {status.st_uid}, and not to the user of the daemon", f"ls -ld {root}")


def has_timely_nodes(examination: Examination) -> Iterator[Symptom | str]:
    """A claim has the time by its node's clock; the file system that all share has the time of its server."""
    directory = _directory(examination)
    if not directory:
        return
    shared = SharedDirectory(Path(directory), "")
    skews: dict[str, int] = {}
    try:
        names = sorted(shared.claimed())[:MOST_CLAIMS]
    except FileNotFoundError:  # no daemon has prepared it yet
        return
    for name in names:
        try:
            claim = shared.claim(name)
            at_ms = (Path(directory) / "claims" / name).stat().st_mtime_ns // 1_000_000
        except FileNotFoundError:  # its run has just been settled
            continue
        except CorruptRecord as error:
            yield Symptom(error.message, error.hint)
            continue
        if claim.by is ClaimedBy.NODE and claim.at_ms is not None and claim.host is not None:
            skews[claim.host] = claim.at_ms - at_ms
    for host, skew_ms in sorted(skews.items()):
        if (words := wrong_clock(host, skew_ms, directory)) is not None:
            yield words


def has_removed_runs(examination: Examination) -> Iterator[Symptom | str]:
    """Runs that have ended, and whose files the daemon has no right to remove."""
    directory = _directory(examination)
    if not directory:
        return
    try:
        left = sorted(SharedDirectory(Path(directory), "").left())
    except FileNotFoundError:  # no daemon has prepared it yet
        return
    for run_id in left:
        path = Path(directory) / "runs" / run_id
        yield Symptom(f"{path} is of a run that has ended, and could not be removed", f"sudo rm -r {path}")


def _directory(examination: Examination) -> str:
    return examination.settings.cluster.directory


CHECKS = (
    Check("cluster", "commands of Slurm", "sbatch, squeue and scancel can be run", E, "sbatch --version",
          has_commands, Needs.FILES),
    Check("cluster", "shared directory", "only the daemon's user can enter the directory shared with the nodes", E,
          "see docs/slurm.md", has_shared_directory, Needs.FILES),
    Check("cluster", "clocks of nodes", "the clocks of the nodes agree with that of the shared directory", W,
          "set the clock of the node: timedatectl; chronyc tracking", has_timely_nodes, Needs.FILES),
    Check("cluster", "files of ended runs", "the files of runs that have ended are removed", W,
          "see docs/slurm.md", has_removed_runs, Needs.FILES),
)  # fmt: skip
