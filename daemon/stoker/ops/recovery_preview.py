"""The plan of a recovery, without the recovery: `stoker recover --dry-run`.

It signals nothing, writes nothing and connects to no launcher, because a connection would take the launcher over. For
an attempt whose launcher lives it reads only /proc, and the plan says that the launcher has not been asked.
Invariant: from the same facts a start makes the same plan.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from msgspec import Struct, to_builtins
from msgspec.structs import replace

from stoker.core.clock import Now, wall_ms
from stoker.core.errors import AlreadyRunning
from stoker.core.job.model import Attempt, Job
from stoker.core.job.recovery import (
    Action,
    Fact,
    Finding,
    PlanInvalid,
    RecoveryDecision,
    RecoveryPlan,
    foresee,
    plan,
    validate,
)
from stoker.paths import with_state_dir
from stoker.process import evidence
from stoker.process import identity as identities
from stoker.process.launchers import Launchers, find_launchers
from stoker.process.outcomes import read_outcomes
from stoker.process.run_roots import RunRoots, uid_of
from stoker.process.work_files import WorkFiles
from stoker.store.directory import StateDirectory
from stoker.store.inspect import InspectedState, inspecting


class PlannedStep(Struct, frozen=True):
    """One open attempt: the facts, the action, the reason, and the state of its job after it (`then`)."""

    job: int
    name: str | None
    attempt: int
    run_id: str
    found: Fact
    would: Action
    then: str
    reason: str | None
    why: str
    pid: int | None
    launcher: str


class Preview(Struct, frozen=True):
    """The plan. `invalid`: why a daemon would go into safe mode, and `remedy`: what a person can do then.

    Launchers of other users, and what they wrote, are in directories of these users, which are not read here: the
    steps of their attempts wait for that. `unborn` and `leaked`: processes it would stop. `without_attempt`: jobs that
    are stored as running while no attempt of them is open; it would hold them.
    """

    state_dir: str
    instance: str
    epoch: int
    copied: bool
    launchers: dict[str, bool]
    steps: list[PlannedStep]
    unborn: list[int]
    leaked: dict[str, list[int]]
    without_attempt: list[int]
    invalid: str | None
    remedy: str | None

    def view(self) -> object:
        """As JSON values."""
        return to_builtins(self)


def preview(root: str) -> Preview:
    """The plan for that state directory. Raises AlreadyRunning while a daemon runs there."""
    directory = StateDirectory(Path(root))
    try:
        with inspecting(directory) as seen:
            return _preview(directory.root, seen)
    except AlreadyRunning as error:
        message = f"{error.message}: the plan of a start can be shown only while no daemon runs"
        raise AlreadyRunning(
            message, hint="stoker status shows what the last recovery did, or why it failed"
        ) from error


def _preview(root: Path, seen: InspectedState) -> Preview:
    launchers = find_launchers(RunRoots(root))
    findings = _findings(root, seen, launchers)
    recovery_plan = plan(seen.runs, findings, seen.epoch + 1)
    scan = identities.scan(seen.instance)
    ours = {attempt.run_id for _, attempt in seen.runs}
    mistake = _mistake(recovery_plan, seen.runs)
    return Preview(
        state_dir=str(root),
        instance=seen.instance,
        epoch=seen.epoch,
        copied=seen.copied,
        launchers={launcher: launcher in launchers.alive for launcher in sorted([*launchers.alive, *launchers.dead])},
        steps=[_step(*run, decision) for run, decision in zip(seen.runs, recovery_plan.decisions, strict=True)],
        unborn=[pid for launcher, pids in scan.launchers.items() if _ends(launcher, launchers) for pid in pids],
        leaked={run_id: pids for run_id, pids in scan.runs.items() if run_id not in ours},
        without_attempt=seen.running_without_attempt,
        invalid=str(mistake) if mistake else None,
        remedy=with_state_dir(mistake.remedy, str(root), os.environ, os.getuid()) if mistake else None,
    )


def _ends(launcher: str, launchers: Launchers) -> bool:
    """Whether a start would stop the processes that a launcher was about to start."""
    return launcher not in launchers.alive and uid_of(launcher) is None


def _findings(root: Path, seen: InspectedState, launchers: Launchers) -> Mapping[str, Finding]:
    attempts = [attempt for _, attempt in seen.runs]
    if seen.copied:
        return evidence.of_a_copy(attempts)
    written = {exited.run_id: exited for _, outcomes in read_outcomes(RunRoots(root)) for exited in outcomes}
    launcher_facts = evidence.LauncherFacts(written=written)
    written_findings = {attempt.run_id: evidence.without_proc(attempt, launcher_facts) for attempt in attempts}
    settled = {run_id: finding for run_id, finding in written_findings.items() if finding is not None}
    unsettled = [attempt for attempt in attempts if attempt.run_id not in settled]
    observed = evidence.search_proc(seen.instance, unsettled, seen.foreign_epochs, seen.hidden_epochs)
    findings = settled | {
        attempt.run_id: _without_its_launcher(attempt, observed[attempt.run_id], launchers) for attempt in unsettled
    }
    earlier = seen.earlier_epochs if seen.boot_id == identities.boot_id() else seen.epoch
    return evidence.with_unordered(findings, seen.runs, WorkFiles(root), earlier)


def _without_its_launcher(attempt: Attempt, observed: Finding, launchers: Launchers) -> Finding:
    """The finding from /proc, as far as it counts without the word of a launcher."""
    if attempt.launcher in launchers.alive:
        return _unasked(attempt, observed)
    return observed if uid_of(attempt.launcher) is None else _unread(attempt, observed)


def _unasked(attempt: Attempt, observed: Finding) -> Finding:
    """The finding for an attempt whose launcher lives. A start would ask the launcher, which owns running workers."""
    if observed.fact is Fact.ORPHANED:
        text = f"{observed.evidence}, under launcher {attempt.launcher}"
        return replace(observed, fact=Fact.OWNED, evidence=text, launcher=attempt.launcher)
    text = f"launcher {attempt.launcher} is alive: the daemon asks it when it starts"
    return Finding(run_id=attempt.run_id, fact=Fact.SILENT, evidence=text, launcher=attempt.launcher)


def _unread(attempt: Attempt, observed: Finding) -> Finding:
    """The finding for an attempt of another user, whose launcher may live, and may have written down an end."""
    if observed.fact is Fact.ORPHANED:
        return observed
    uid = uid_of(attempt.launcher)
    text = f"the directory of uid {uid} is not read here: a start looks there for launcher {attempt.launcher}"
    return Finding(run_id=attempt.run_id, fact=Fact.SILENT, evidence=text, launcher=attempt.launcher)


def _step(job: Job, attempt: Attempt, decision: RecoveryDecision) -> PlannedStep:
    wall = wall_ms()
    after = foresee(job, attempt, decision, Now(wall=wall, steady=wall))
    identity = decision.finding.identity
    return PlannedStep(
        job=job.id,
        name=job.spec.name,
        attempt=attempt.ordinal,
        run_id=attempt.run_id,
        found=decision.finding.fact,
        would=decision.action,
        then=after.state.value,
        reason=after.reason and after.reason.value,
        why=decision.why,
        pid=None if identity is None else identity.pid,
        launcher=attempt.launcher,
    )


def _mistake(recovery_plan: RecoveryPlan, runs: Sequence[tuple[Job, Attempt]]) -> PlanInvalid | None:
    try:
        validate(recovery_plan, runs)
    except PlanInvalid as error:
        return error
    return None
