"""The section [quotas]: how much of the daemon each user may use.

As in settings.py the annotations are evaluated (no `from __future__`).
"""

from typing import Annotated

from msgspec import UNSET, UnsetType

from stoker.config.section import Section, between
from stoker.core.requests import MAX_INT

Queued = Annotated[int, between(0, MAX_INT, "most jobs of a user that are waiting, queued or held; 0 = no limit")]
Running = Annotated[int, between(0, 100_000, "most jobs of a user that run at once; 0 = no limit")]
Workflows = Annotated[int, between(0, MAX_INT, "most workflows of a user that have not ended; 0 = no limit")]
Schedules = Annotated[int, between(0, MAX_INT, "most schedules of a user; 0 = no limit")]

Submits = Annotated[int, between(0, 1_000_000, "most jobs that a user submits in a second; 0 = no limit")]

StoredBytes = Annotated[
    int, between(0, MAX_INT, "most bytes of a user in specs, checkpoints and outputs that are kept; 0 = no limit")
]
LogBytes = Annotated[int, between(0, MAX_INT, "most bytes of a user in logs that are kept; 0 = no limit")]


class QuotaSettings(Section, frozen=True):
    """Limits of each user but root and the daemon's own; those of one user: [quotas.users.NAME] (docs/quotas.md)."""

    max_queued: Queued = 0
    max_running: Running = 0
    max_workflows: Workflows = 0
    max_schedules: Schedules = 0
    max_submits_per_s: Submits = 0
    max_stored_bytes: StoredBytes = 0
    max_log_bytes: LogBytes = 0


class QuotaSection(Section, frozen=True):
    """The limits of one user, by its name or number. Keys that it leaves out are as in [quotas]."""

    max_queued: Queued | UnsetType = UNSET
    max_running: Running | UnsetType = UNSET
    max_workflows: Workflows | UnsetType = UNSET
    max_schedules: Schedules | UnsetType = UNSET
    max_submits_per_s: Submits | UnsetType = UNSET
    max_stored_bytes: StoredBytes | UnsetType = UNSET
    max_log_bytes: LogBytes | UnsetType = UNSET
