"""What a start would do now with the attempts that are open: the plan of a recovery, without the recovery.

Owns the look behind `stoker recover --dry-run`. Refuses to signal, to write and to speak to launchers: a greeting would
take them over. So of an attempt whose launcher lives only /proc is asked, and what the launcher has to say stays open.
Invariant: the same facts and the same plan as those of a start.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct
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
from stoker.process import evidence
from stoker.process import identity as identities
from stoker.process.launchers import Launchers, find_launchers
from stoker.process.outcomes import read_outcomes
from stoker.store.directory import StateDirectory
from stoker.store.inspect import InspectedState, looking


class PlannedStep(Struct, frozen=True):
    """One open attempt: what was found, what would be done and why, and what its job would be `then`."""

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
    """A plan on paper. `invalid`: why a daemon would go into safe mode; `unborn` and `leaked` would be stopped."""

    state_dir: str
    instance: str
    epoch: int
    copied: bool
    launchers: dict[str, bool]
    steps: list[PlannedStep]
    unborn: list[int]
    leaked: dict[str, list[int]]
    invalid: str | None


def preview(root: str) -> dict[str, object]:
    """The plan for that state directory, as JSON-able values. Raises AlreadyRunning while a daemon runs there."""
    directory = StateDirectory(Path(root))
    try:
        with looking(directory) as seen:
            return dict(msgspec.to_builtins(_preview(directory.root, seen)))
    except AlreadyRunning as error:
        told = f"{error.message}: it recovered when it started, and there is no plan to show"
        raise AlreadyRunning(told, hint="stoker status shows what the last recovery did") from error


def _preview(root: Path, seen: InspectedState) -> Preview:
    launchers = find_launchers(root)
    findings = _findings(root, seen, launchers)
    made = plan(seen.runs, findings, seen.epoch + 1)
    scan = identities.scan(seen.instance)
    ours = {attempt.run_id for _, attempt in seen.runs}
    return Preview(
        state_dir=str(root),
        instance=seen.instance,
        epoch=seen.epoch,
        copied=seen.copied,
        launchers={launcher: launcher in launchers.alive for launcher in sorted([*launchers.alive, *launchers.dead])},
        steps=[_step(*run, decision) for run, decision in zip(seen.runs, made.decisions, strict=True)],
        unborn=[pid for launcher, pids in scan.launchers.items() if launcher not in launchers.alive for pid in pids],
        leaked={run_id: pids for run_id, pids in scan.runs.items() if run_id not in ours},
        invalid=_invalid(made, seen.runs),
    )


def _findings(root: Path, seen: InspectedState, launchers: Launchers) -> Mapping[str, Finding]:
    attempts = [attempt for _, attempt in seen.runs]
    if seen.copied:
        return evidence.of_a_copy(attempts)
    written = {exited.run_id: exited for _, said in read_outcomes(root) for exited in said}
    testimony = evidence.Testimony(written=written)
    told = {attempt.run_id: evidence.without_proc(attempt, testimony) for attempt in attempts}
    known = {run_id: finding for run_id, finding in told.items() if finding is not None}
    untold = [attempt for attempt in attempts if attempt.run_id not in known]
    looked = evidence.search_proc(seen.instance, untold, seen.foreign_epochs, seen.hidden_epochs)
    return known | {
        attempt.run_id: _unasked(attempt, looked[attempt.run_id])
        if attempt.launcher in launchers.alive
        else looked[attempt.run_id]
        for attempt in untold
    }


def _unasked(attempt: Attempt, looked: Finding) -> Finding:
    """Its launcher would be asked first; a worker that is seen to run is what it would tell of."""
    if looked.fact is Fact.ORPHANED:
        told = f"{looked.evidence}, under launcher {attempt.launcher}"
        return replace(looked, fact=Fact.OWNED, evidence=told, launcher=attempt.launcher)
    told = f"launcher {attempt.launcher} lives: what it says is not known until the daemon starts"
    return Finding(run_id=attempt.run_id, fact=Fact.SILENT, evidence=told, launcher=attempt.launcher)


def _step(job: Job, attempt: Attempt, decision: RecoveryDecision) -> PlannedStep:
    wall = wall_ms()
    after = foresee(job, attempt, decision, Now(wall=wall, steady=wall))
    identity = decision.finding.identity
    return PlannedStep(
        job=job.id, name=job.spec.name, attempt=attempt.ordinal, run_id=attempt.run_id, found=decision.finding.fact,
        would=decision.action, then=after.state.value, reason=after.reason and after.reason.value, why=decision.why,
        pid=None if identity is None else identity.pid, launcher=attempt.launcher,
    )  # fmt: skip


def _invalid(made: RecoveryPlan, runs: Sequence[tuple[Job, Attempt]]) -> str | None:
    try:
        validate(made, runs)
    except PlanInvalid as error:
        return str(error)
    return None
