"""What a launcher's refusal means for an attempt.

Owns the translation from the launcher's words. Refuses judgement: whether it was a success is the job's to say.
"""

from __future__ import annotations

from stoker.core.job.recovery import NEVER_STARTED
from stoker.executors.base import AttemptEnded, Report, StartRefused
from stoker.process import messages


def reports_of(refused: messages.LaunchRefused) -> list[Report]:
    """What a refusal means; a duplicate means nothing, as the launch was merely heard twice."""
    run_id = refused.run_id
    assert run_id is not None, "a refused hello never comes as a report"
    if refused.why is messages.HelloRefusal.LOG_EXISTS:
        return [StartRefused(run_id, f"{refused.error}: the disk is ahead of the database")]
    return [] if refused.why is messages.HelloRefusal.DUPLICATE else [AttemptEnded(run_id, NEVER_STARTED)]
