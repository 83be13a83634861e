"""The check that starts something: a tiny job for each queue of a cluster, whose node answers in the shared directory.

Owns how long their answers are waited for: the jobs wait in the queues of the engine, so this check is made only when
it is asked for. Invariant: no job and no file of a probe is left.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

from msgspec.structs import replace

from stoker.cluster.engine import EngineAway, EngineRefused
from stoker.cluster.probe import ProbeDirectory
from stoker.cluster.slurm import Slurm, asked
from stoker.core.cluster import ClusterOptions
from stoker.core.cluster_probe import ProbedJob, ProbePlace, faults
from stoker.files import user_name
from stoker.ops.doctor.examination import Check, E, Examination, Needs, Symptom, W

NAME = "probe jobs"
JOB_NAME = "stoker-doctor"
COMMENT = "stoker.doctor.{}"  # as long as a run id: the list of the engine has these jobs, too
LOOK_S, ASK_S = 0.2, 2.0


def answers_to_probes(examination: Examination) -> Iterator[Symptom | str]:
    """Submit a job for each kind of queue, wait for their answers, and judge these."""
    root, backends = Path(examination.settings.cluster.directory), examination.settings.backends
    if not backends:
        message = "no queue of the settings hands its jobs to a cluster, so there is nothing to probe"
        yield Symptom(message, "name the settings file of the daemon: --config FILE (its queues: docs/slurm.md)")
        return
    directory = ProbeDirectory(root)
    try:
        if (owner := root.stat().st_uid) != os.geteuid():
            user = user_name(owner)
            message = f"{root} belongs to {user}: only jobs of this user show what jobs of the daemon can do"
            yield Symptom(message, f"sudo -u {user} stoker doctor --probe", W)
            return
        directory.prepare()
    except OSError as error:
        directory.remove()
        yield Symptom(f"{root}: {error.strerror}", f"make it, shared with the nodes: mkdir -m 700 {root}")
        return
    try:
        yield from _probe(examination, directory, backends)
    finally:
        directory.remove()


def _probe(
    examination: Examination, directory: ProbeDirectory, backends: dict[str, ClusterOptions]
) -> Iterator[Symptom]:
    settings, patience_ms = examination.settings.cluster, examination.host.probe_ms or 0
    probe = _Probe(directory, settings.python)
    try:
        for options in dict.fromkeys(backends.values()):
            probe.submit(tuple(name for name, own in backends.items() if own == options), options)
        waited_ms = probe.wait(patience_ms, examination)
    finally:
        probe.cancel()
    place = ProbePlace(settings.directory, settings.python, directory.nonce, waited_ms)
    for job in probe.jobs.values():
        for fault in faults(job, place):
            yield Symptom(fault.message, fault.remedy, None if fault.is_proven else W)


class _Probe:
    """The jobs by their comments."""

    def __init__(self, directory: ProbeDirectory, python: str) -> None:
        self.jobs: dict[str, ProbedJob] = {}
        self._directory = directory
        self._python = python
        self._engine = Slurm()

    def submit(self, queues: tuple[str, ...], options: ClusterOptions) -> None:
        name = str(len(self.jobs))
        comment = COMMENT.format(f"{name}-{self._directory.nonce}")
        job = self.jobs[comment] = ProbedJob(queues=queues, options=asked(options))
        arguments = self._directory.arguments(self._python, name)
        try:
            number = self._engine.submit(
                comment, JOB_NAME, self._directory.script, arguments, Path("/dev/null"), options
            )
            job = replace(job, number=number)
        except EngineRefused as error:
            job = replace(job, refused=str(error))
        except EngineAway as error:
            job = replace(job, away=str(error))
        self.jobs[comment] = job

    def wait(self, patience_ms: int, examination: Examination) -> int:
        """Until each job has answered, or cannot any more; at most this long. Returns how long, in ms."""
        began, ask_at = time.monotonic(), 0.0
        while True:
            now = time.monotonic()
            self._take_answers()
            if now >= ask_at:
                self._ask()
                ask_at = now + ASK_S
            waited_ms = int((now - began) * 1_000)
            if waited_ms >= patience_ms or all(job.is_settled for job in self.jobs.values()):
                return waited_ms // 1_000 * 1_000
            examination.progress(NAME, self._answered(), len(self.jobs))
            time.sleep(LOOK_S)  # polls: nothing tells of the changes of another host

    def _answered(self) -> int:
        return sum(job.answer is not None for job in self.jobs.values())

    def _take_answers(self) -> None:
        there = self._directory.answers()
        for name, (comment, job) in enumerate(self.jobs.items()):
            if job.answer is None and str(name) in there:
                self.jobs[comment] = replace(job, answer=self._directory.answer(str(name)))

    def _ask(self) -> None:
        """Note the engine's word on each, also on one whose number was lost. Its silence shows nothing."""
        try:
            listed = self._engine.jobs()
        except (EngineAway, EngineRefused):
            return
        for comment, job in self.jobs.items():
            if comment in listed:
                self.jobs[comment] = replace(job, listed=listed[comment], number=listed[comment].id, away=None)

    def cancel(self) -> None:
        """Have the engine remove the jobs that did not answer, also one whose submit was interrupted."""
        if any(job.number is None and job.refused is None for job in self.jobs.values()):
            self._ask()
        left = (job.number for job in self.jobs.values() if job.answer is None)
        try:
            self._engine.cancel({number: JOB_NAME for number in left if number is not None})
        except (EngineAway, EngineRefused):  # it is away, or they are over
            return


PROBES = (
    Check("cluster", NAME, "a job of each queue of the cluster started, and its node shares the directory", E,
          "see docs/slurm.md", answers_to_probes, Needs.FILES),
)  # fmt: skip
