"""The end of work outside of a workflow, a job or another workflow, for which a step of it waited. Pure.

Owns which ends let that step succeed, and the words for the others. The step waits by the condition of the same name
(`job:41`), so only what ended once is looked at.
"""

from __future__ import annotations

from stoker.core.answers import JobStanding
from stoker.core.job.dependencies import NeedStanding, need_met
from stoker.core.job.model import NeedOn
from stoker.core.workflow.state import ENDED, WorkflowState


def why_not(awaited: str, end: JobStanding | WorkflowState | None, retry: str) -> str | None:
    """Why the step fails that waited for `job:41`; None if that ended well. `retry`: the command for later."""
    what = awaited.replace(":", " ")
    if end is None:
        return f"{what} was removed, so its end is not known"
    if isinstance(end, WorkflowState):
        met = end is WorkflowState.SUCCEEDED if end in ENDED else None
        words = end.value
    else:
        met = need_met(NeedOn.OK, NeedStanding(end.state, end.reason))
        words = end.state.value if end.reason is None else f"{end.state.value} ({end.reason.value})"
    if met is None:
        return f"{what} runs again ({words}); once it has ended: {retry}"
    return None if met else f"{what} did not succeed: it is {words}"
