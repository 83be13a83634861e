"""The parts of jobs that are not shown: the fields of another user's job, and values of variables by their names. Pure.

Owns the fields of a job that an operator does not see, its command, data and paths, with what is shown instead; a test
asks that each field of a job and of an attempt is either here or among those that may be seen.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, cast

if TYPE_CHECKING:
    from stoker.core.views import AttemptView, JobView

HIDDEN_TEXT: Final = "(hidden)"
ENVIRONMENTS: Final = frozenset({"env", "env_vars"})
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


def without_values(document: Any, names: tuple[str, ...]) -> Any:
    """The document without the values of those variables in each table `env`; in `names` a * is any text."""
    if isinstance(document, Mapping):
        return {
            key: _redacted_env(value, _any_of(names))
            if key in ENVIRONMENTS and isinstance(value, Mapping)
            else without_values(value, names)
            for key, value in document.items()
        }
    if isinstance(document, Sequence) and not isinstance(document, str | bytes):
        return [without_values(one, names) for one in document]
    return document


def _redacted_env(env: Mapping[str, Any], secret: re.Pattern[str]) -> dict[str, Any]:
    return {name: HIDDEN_TEXT if secret.fullmatch(name) else value for name, value in env.items()}


@lru_cache
def _any_of(names: tuple[str, ...]) -> re.Pattern[str]:
    """Matches no name if there are none."""
    patterns = (".*".join(map(re.escape, name.split("*"))) for name in names)
    return re.compile("|".join(patterns) or r"(?!)", re.IGNORECASE)


def redacted_attempt(view: AttemptView) -> AttemptView:
    return cast("AttemptView", {**view, **HIDDEN_OF_ATTEMPTS})
