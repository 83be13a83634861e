"""What a launcher saw, as the outcome of an attempt, and what its refusal means.

Owns the translation from the launcher's words. Refuses judgement: whether it was a success is the job's to say.
"""

from __future__ import annotations

from stoker.core.model import Outcome, OutcomeKind
from stoker.executors.base import Ended, Refused, Report
from stoker.process import messages
from stoker.process.messages import Exited

UNSEEN = Outcome(kind=OutcomeKind.UNSEEN)
NEVER_STARTED = Outcome(kind=OutcomeKind.NEVER_STARTED)


def outcome_of(exited: Exited) -> Outcome:
    """The outcome that an exit stands for."""
    failed = exited.spawn_error
    return Outcome(
        kind=_kind(exited),
        exit_code=exited.exit_code,
        signal=exited.signal,
        stopped=exited.stopped,
        transient=failed is not None and failed.transient,
        error=None if failed is None else failed.error,
        ended_at=exited.at_ms,
        user_ms=exited.user_ms,
        system_ms=exited.system_ms,
        max_rss_kib=exited.max_rss_kib,
        log_bytes=exited.log_bytes,
    )


def _kind(exited: Exited) -> OutcomeKind:
    if exited.spawn_error is not None:
        return OutcomeKind.SPAWN_ERROR
    if exited.oom:
        return OutcomeKind.OOM
    return OutcomeKind.SIGNAL if exited.signal is not None else OutcomeKind.EXIT


def reports_of(refused: messages.Refused) -> list[Report]:
    """What a refusal means; a duplicate means nothing, as the launch was merely heard twice."""
    run_id = refused.run_id
    assert run_id is not None, "a refused hello never comes as a report"
    if refused.why is messages.Refusal.LOG_EXISTS:
        return [Refused(run_id, f"{refused.error}: the disk is ahead of the database")]
    return [] if refused.why is messages.Refusal.DUPLICATE else [Ended(run_id, NEVER_STARTED)]
