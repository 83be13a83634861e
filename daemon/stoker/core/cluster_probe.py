"""A probe of a cluster: a tiny job for the queues with the same options, and the faults that its end or answer shows.

Owns the order in which faults are looked for: the first one explains those after it. A job that still waits shows
nothing, so it is reported apart from the faults.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from msgspec import Struct

from stoker.core.cluster import RECORD_LATE_MS, EngineJob, Phase
from stoker.core.explain_cluster import waiting_words
from stoker.core.units import duration

OLDEST_PYTHON = (3, 11)
FAILED, COMPLETED = "FAILED", "COMPLETED"  # words of Slurm (squeue(1), JOB STATE CODES)
_VERSION = re.compile(r"([0-9]{1,4})\.([0-9]{1,4})\Z")


class ProbeAnswer(Struct, frozen=True):
    """The words of a node. `nonce`: the text that it read in the shared directory. `python`: its version there, or the
    complaint in its place. `skew_ms`: how far the node's clock is ahead of that of the shared directory.
    """

    host: str
    nonce: str
    python: str
    skew_ms: int


class ProbedJob(Struct, frozen=True, kw_only=True):
    """The knowledge about a probe job. `options`: of sbatch and srun. `refused`, `away`: the engine's words in place of
    a `number`. `listed`: the engine's last word on it.
    """

    queues: tuple[str, ...]
    options: Sequence[str] = ()
    number: int | None = None
    refused: str | None = None
    away: str | None = None
    listed: EngineJob | None = None
    answer: ProbeAnswer | None = None

    @property
    def is_settled(self) -> bool:
        """Whether nothing more can come. The answer of one that has not failed may be shown late."""
        failed = self.listed is not None and self.listed.phase is Phase.OVER and self.listed.state != COMPLETED
        return self.answer is not None or self.number is None or failed


class ProbeFault(Struct, frozen=True):
    """A sentence, and the next command. `is_proven`: False if the job has not shown anything yet."""

    message: str
    remedy: str
    is_proven: bool = True


class ProbePlace(Struct, frozen=True):
    """The shared directory, the program for the nodes, the text that they have to read, and the time that they had."""

    directory: str
    python: str
    nonce: str
    waited_ms: int


def faults(job: ProbedJob, place: ProbePlace) -> Iterator[ProbeFault]:
    """The faults of the cluster that a probe job shows for its queues."""
    names = f"queue {', '.join(job.queues)}"
    if job.refused is not None:
        yield ProbeFault(f"{names}: Slurm refuses its jobs: {job.refused}", _after_refusal(job.refused))
    elif job.away is not None:
        yield ProbeFault(f"{names}: Slurm does not answer: {job.away}", "scontrol ping", is_proven=False)
    elif job.answer is None:
        yield _without_answer(names, job, place)
    elif job.answer.nonce != place.nonce:
        message = f"{names}: node {job.answer.host} does not read in {place.directory} the text that is there"
        yield ProbeFault(message, _look_there(job, place))
    else:
        yield from _of_node(names, job.answer, place)


def _after_refusal(words: str) -> str:
    if "account" in words.lower() or "qos" in words.lower():
        return 'sacctmgr show associations user="$USER", then correct [queues.NAME.slurm]'
    return "sinfo --summarize, then correct [queues.NAME.slurm]"


def _without_answer(names: str, job: ProbedJob, place: ProbePlace) -> ProbeFault:
    listed, after = job.listed, f"within {duration(place.waited_ms)}"
    about = f"{names}: its probe, job {job.number} of Slurm,"
    show = f"scontrol show job {job.number}"
    if listed is None:
        return ProbeFault(f"{about} left no answer {after}, and Slurm does not list it", show, is_proven=False)
    if listed.phase is Phase.WAITS:
        message = f"{about} did not start {after}{waiting_words(listed.reason)}"
        return ProbeFault(message, "stoker doctor --probe --timeout 10m", is_proven=False)
    if listed.state == FAILED:
        return ProbeFault(f"{about} failed: its node cannot write to {place.directory}", _look_there(job, place))
    message = f"{about} left no answer in {place.directory} {after} ({listed.state})"
    return ProbeFault(message, show, is_proven=False)


def _look_there(job: ProbedJob, place: ProbePlace) -> str:
    return " ".join(("srun", *job.options, "ls -ld", place.directory))


def _of_node(names: str, answer: ProbeAnswer, place: ProbePlace) -> Iterator[ProbeFault]:
    found = _VERSION.match(answer.python)
    oldest = ".".join(map(str, OLDEST_PYTHON))
    if found is None:
        message = f"{names}: {place.python} cannot be run on node {answer.host}: {answer.python}"
        yield ProbeFault(message, f"install Python {oldest} or newer there, or set [cluster] python to its path")
    elif (int(found[1]), int(found[2])) < OLDEST_PYTHON:
        message = f"{names}: {place.python} on node {answer.host} is Python {answer.python}, and {oldest} is the oldest"
        yield ProbeFault(message, "set [cluster] python to the path of a newer one")
    if (words := wrong_clock(answer.host, answer.skew_ms, place.directory)) is not None:
        yield ProbeFault(f"{names}: {words}", "set the clock of the node: timedatectl; chronyc tracking")


def wrong_clock(host: str, skew_ms: int, directory: str) -> str | None:
    """A sentence about the clock of a node, if it is further off than a shared directory may be late."""
    if abs(skew_ms) < RECORD_LATE_MS:
        return None
    way = "ahead of" if skew_ms > 0 else "behind"
    return f"the clock of node {host} is {duration(abs(skew_ms) // 60_000 * 60_000)} {way} that of {directory}"
