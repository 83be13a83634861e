"""Findings about open attempts for recovery, each from the best source there is.

Owns the order of the sources: the launcher that has the run, the outcome log of a launcher that died, then /proc; and
the files that a run has before any launcher gets its order. It decides nothing and signals nothing. Invariant: every
attempt gets exactly one finding.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence

from msgspec import Struct, field

from stoker.core.job.model import IN_PROCESS, Attempt, Identity, Job
from stoker.core.job.recovery import Fact, Finding
from stoker.process import identity as identities
from stoker.process.client import LauncherClient
from stoker.process.messages import Exited, ListedRun, RunState
from stoker.process.outcomes import outcome_of
from stoker.process.work_files import WorkFiles


class LauncherFacts(Struct, frozen=True):
    """The runs that launchers hold, the outcomes in their logs, and the launchers that live but do not answer."""

    held: Mapping[str, tuple[LauncherClient, ListedRun]] = field(default_factory=dict)
    written: Mapping[str, Exited] = field(default_factory=dict)
    silent: frozenset[str] = frozenset()


async def ask_launchers(
    clients: Iterable[LauncherClient], attempts: Sequence[Attempt], timeout_s: float | None
) -> list[tuple[LauncherClient, list[ListedRun]]]:
    """Ask these launchers at once for the runs that they hold and for the attempts that name them.

    A launcher that dies, or does not answer in time, is not in the result.
    """
    asked = {}
    for client in clients:
        named = [attempt.run_id for attempt in attempts if attempt.launcher == client.launcher]
        asked[client.list_runs(named)] = client
    if not asked:
        return []
    done, _ = await asyncio.wait(asked, timeout=timeout_s)
    return [(client, answer.result()) for answer, client in asked.items() if answer in done and not answer.exception()]


async def gather(
    instance: str,
    attempts: Sequence[Attempt],
    launcher_facts: LauncherFacts,
    foreign_epochs: int = 0,
    hidden_epochs: int = 0,
) -> dict[str, Finding]:
    """One finding for each attempt; /proc is searched once, in a thread, for those that no launcher knows.

    Attempts of epochs up to `foreign_epochs` belong to the directory that this one is a copy of; those of epochs up to
    `hidden_epochs` may run in another pid namespace.
    """
    findings = {}
    unknown = []
    for attempt in attempts:
        finding = without_proc(attempt, launcher_facts)
        if finding is None:
            unknown.append(attempt)
        else:
            findings[attempt.run_id] = finding
    if unknown:
        findings |= await asyncio.to_thread(search_proc, instance, unknown, foreign_epochs, hidden_epochs)
    return findings


def with_unordered(
    findings: Mapping[str, Finding], runs: Iterable[tuple[Job, Attempt]], files: WorkFiles, earlier_epochs: int
) -> dict[str, Finding]:
    """The findings; an attempt whose daemon died before it had kept the hashes of the sources never started.

    No launcher can have its order then. Of attempts up to `earlier_epochs` a loss of power may have taken the files.
    """
    unordered = {
        attempt.run_id: Finding(run_id=attempt.run_id, fact=Fact.NEVER_STARTED, evidence="its order was never sent")
        for job, attempt in runs
        if findings[attempt.run_id].fact is Fact.GONE
        and job.spec.sources
        and attempt.epoch > earlier_epochs
        and not files.may_be_ordered(attempt.run_id)
    }
    return {**findings, **unordered}


def of_a_copy(attempts: Sequence[Attempt]) -> dict[str, Finding]:
    """In a copied state directory open attempts belong to the original: they are neither searched nor signalled."""
    return {
        attempt.run_id: Finding(
            run_id=attempt.run_id, fact=Fact.UNPROVABLE, evidence="this directory is a copy: the original may run it"
        )
        for attempt in attempts
    }


def without_proc(attempt: Attempt, launcher_facts: LauncherFacts) -> Finding | None:
    """The finding that needs no search of /proc; None if there is none."""
    run_id = attempt.run_id
    if attempt.launcher == IN_PROCESS:
        return Finding(run_id=run_id, fact=Fact.GONE, evidence="ran inside the daemon that ended")
    if run_id in launcher_facts.held:
        return _held(attempt, *launcher_facts.held[run_id])
    if run_id in launcher_facts.written:
        return _ended(launcher_facts.written[run_id], "its launcher wrote the outcome down", attempt.launcher)
    if attempt.launcher in launcher_facts.silent:
        return Finding(run_id=run_id, fact=Fact.SILENT, evidence="its launcher lives but does not answer")
    return None


def _held(attempt: Attempt, client: LauncherClient, run: ListedRun) -> Finding:
    match run.state:
        case RunState.UNKNOWN:
            return Finding(run_id=run.run_id, fact=Fact.NEVER_STARTED, evidence="its launcher never got it")
        case RunState.ENDED:
            assert run.exit is not None, "an ended run has an exit"
            return _ended(run.exit, "its launcher kept the outcome", client.launcher)
    # Once the main process has ended its pid may be that of any process, even of another run.
    identity = attempt.identity if run.started is None else client.identity(run.started)
    return Finding(
        run_id=run.run_id,
        fact=Fact.OWNED,
        evidence=f"runs under launcher {client.launcher}",
        identity=identity if run.state is RunState.RUNNING else None,
        launcher=client.launcher,
    )


def _ended(exited: Exited, evidence: str, launcher: str) -> Finding:
    outcome = outcome_of(exited)
    return Finding(run_id=exited.run_id, fact=Fact.ENDED, evidence=evidence, outcome=outcome, launcher=launcher)


def search_proc(
    instance: str, attempts: Sequence[Attempt], foreign_epochs: int, hidden_epochs: int
) -> dict[str, Finding]:
    """One finding for each attempt from /proc. A process that /proc does not show counts as unprovable, not as gone."""
    marked = identities.scan(instance)
    findings = {
        attempt.run_id: _judge(
            instance, attempt, marked.of_run(attempt.run_id), foreign=attempt.epoch <= foreign_epochs
        )
        for attempt in attempts
    }
    sessions = identities.sessions()
    for attempt in attempts:
        finding = findings[attempt.run_id]
        if finding.fact is Fact.GONE and (left := identities.left_in_session(attempt.identity, sessions)):
            reason = f"pid {', '.join(map(str, left))} is in the session of its worker, which has ended"
            findings[attempt.run_id] = Finding(run_id=attempt.run_id, fact=Fact.UNPROVABLE, evidence=reason)
        elif finding.fact is Fact.GONE and attempt.identity is None and attempt.epoch <= hidden_epochs:
            reason = "it may run in the pid namespace of an earlier daemon, which cannot be seen from here"
            findings[attempt.run_id] = Finding(run_id=attempt.run_id, fact=Fact.UNPROVABLE, evidence=reason)
    return findings


def _judge(instance: str, attempt: Attempt, pids: Sequence[int], *, foreign: bool) -> Finding:
    """`pids` are the processes that carry the attempt's run id."""

    def finding(fact: Fact, evidence: str, identity: Identity | None = attempt.identity) -> Finding:
        return Finding(run_id=attempt.run_id, fact=fact, evidence=evidence, identity=identity)

    if attempt.identity is not None:
        verdict = identities.verdict(attempt.identity, instance, attempt.run_id)
        if verdict is identities.IdentityVerdict.OURS and foreign:
            return finding(Fact.UNPROVABLE, f"pid {attempt.identity.pid} runs for the directory that this is a copy of")
        if verdict is identities.IdentityVerdict.OURS:
            return finding(Fact.ORPHANED, f"pid {attempt.identity.pid} is proven to be its worker")
        if verdict is identities.IdentityVerdict.UNPROVABLE:
            return finding(Fact.UNPROVABLE, f"it cannot be proven whose process pid {attempt.identity.pid} is")
    living = {pid: stat for pid in pids if (stat := identities.read_stat(pid)) and not stat.ended}
    if living:
        # The recorded main process has ended, and any other process may have its pid.
        main = _leader(living) if attempt.identity is None else None
        return finding(Fact.ORPHANED, f"{_named(living)} its run id", main)
    return finding(Fact.GONE, "its launcher is dead and no process of it is left")


def _named(pids: Collection[int]) -> str:
    words = ", ".join(map(str, pids))
    return f"process {words} carries" if len(pids) == 1 else f"processes {words} carry"


def _leader(living: Mapping[int, identities.ProcessStat]) -> Identity | None:
    """The main process, if it leads its session; its identity may not have been committed in time.

    It has no parent among these and started first. Many processes may start in one tick, and pids wrap around, so the
    lowest pid is no proof of being first; hence the session before the pid.
    """

    def order(one: tuple[int, identities.ProcessStat]) -> tuple[bool, int, bool, int]:
        pid, stat = one
        return (stat.parent in living, stat.start_ticks, stat.session != pid, pid)

    pid, stat = min(living.items(), key=order)
    if stat.session != pid:
        return None
    return Identity(
        pid=pid, start_ticks=stat.start_ticks, boot_id=identities.boot_id(), pid_namespace=identities.pid_namespace()
    )
