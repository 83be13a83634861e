"""The fields of another user's job that an operator does not see: its command, data and paths. Pure.

Owns the fields that are hidden, with what is shown instead; a test asks that each field of a job and of an attempt is
either here or among those that may be seen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

if TYPE_CHECKING:
    from stoker.core.views import AttemptView, JobView

HIDDEN_TEXT: Final = "(hidden)"
HIDDEN_OF_JOBS: Final[dict[str, Any]] = {
    "command": HIDDEN_TEXT,
    "args": [],
    "working_dir": HIDDEN_TEXT,
    "env_vars": {},
    "stdin": None,
    "secrets": [],
    "run_if": None,
    "wait_for": None,
    "conditions_open": [],
    "supersede_key": None,
    "traceparent": None,
    "hook_data": {},
    "sources": [],
    "produces": [],
    "spec_hash": "",  # a guess at the command could be tried against it
    "status_text": None,
    "log": None,
}
HIDDEN_OF_ATTEMPTS: Final[dict[str, Any]] = {"error": None, "cgroup": None, "suspicion": None}


def redacted_job(view: JobView) -> JobView:
    return cast("JobView", {**view, **HIDDEN_OF_JOBS})


def redacted_attempt(view: AttemptView) -> AttemptView:
    return cast("AttemptView", {**view, **HIDDEN_OF_ATTEMPTS})
