"""Several users of the simulated daemon, and the laws of what they share.

Owns the users, the limits of two of them, and the answers to requests about jobs of others. The laws look at committed
rows alone: no user runs more jobs than it may, and of the job of another user the answer is that of a job that
does not exist. The turns of users: tests/engine/test_user_laws.py.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from stoker.config.quota_section import QuotaSection
from stoker.core.errors import JobNotFound
from stoker.service.ownership import Named

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable

    from stoker.core.requests import NeedParams
    from stoker.store.batch import Batch
    from tests.simulation.laws import Laws
    from tests.simulation.life import Life

UID = 1_000  # has no limits, and owns all workflows and schedules
USERS = (UID, UID, 1_001, 1_002)
MAX_RUNNING = {1_001: 1, 1_002: 2}
QUOTAS = {
    "1001": QuotaSection(max_running=MAX_RUNNING[1_001], max_queued=3),
    "1002": QuotaSection(max_running=MAX_RUNNING[1_002]),
}
NO_JOB = 1 << 40
OWNER = "SELECT owner_uid FROM jobs WHERE id = ?"
RUNNING = "SELECT owner_uid, count(*) FROM attempts JOIN jobs ON jobs.id = job_id WHERE ended_at IS NULL GROUP BY 1"


def running_of(connection: sqlite3.Connection) -> Counter[int]:
    """The open attempts of each user."""
    return Counter(dict(connection.execute(RUNNING)))


def at_their_limit(connection: sqlite3.Connection) -> set[int]:
    """The users who may start no job now."""
    running = running_of(connection)
    return {uid for uid, most in MAX_RUNNING.items() if running[uid] >= most}


class UserLaws:
    """Checks them at each commit and at each request."""

    def __init__(self, connection: sqlite3.Connection, laws: Laws) -> None:
        self._database = connection
        self._laws = laws
        self._words: set[tuple[str, str]] = set()
        self._owners: dict[int, int] = {}

    def owner(self, job_id: int) -> int:
        """0 if there is no such job."""
        if job_id not in self._owners and (uid := self._laws.number(OWNER, job_id)):
            self._owners[job_id] = uid
        return self._owners.get(job_id, 0)

    def committed(self, batch: Batch) -> None:
        """One transaction went through."""
        if batch.new_attempts:
            self._within_limits()

    def _within_limits(self) -> None:
        running = running_of(self._database)
        for uid, most in MAX_RUNNING.items():
            count = running[uid]
            self._laws.looks["user at its limit"] += count == most
            if count > most:
                self._laws.broken(f"{count} jobs of user {uid} run, its limit is {most}")

    async def check(self, life: Life, job_id: int, uid: int) -> None:
        """Ask for the owner, as the server does before a command. Raises JobNotFound."""
        try:
            await life.service.ownership.check(uid, Named(jobs=[job_id]))
        except JobNotFound as error:
            self._laws.looks["job of another"] += 1
            self._words.add((str(error).replace(str(job_id), "N"), str(error.hint)))
            if len(self._words) > 1:
                self._laws.broken(f"the answers differ for jobs of others and for missing ones: {self._words}")
            if self.owner(job_id) == uid:
                self._laws.broken(f"user {uid} was refused its job {job_id}")
            raise
        if self.owner(job_id) != uid:
            self._laws.broken(f"user {uid} was admitted to job {job_id} of user {self.owner(job_id)}")

    def accepted(self, job_id: int, uid: int, needs: Iterable[int | NeedParams]) -> None:
        """A job that a user submitted is its own, and waits for jobs of its own only."""
        needed = [need if isinstance(need, int) else need.job for need in needs]
        if strange := [one for one in (job_id, *needed) if self.owner(one) != uid]:
            self._laws.broken(f"job {job_id} of user {uid}: {strange} are of others")
