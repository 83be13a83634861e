"""Clients of the simulated daemon: they submit with a key, ask again after a lost answer, and use verbs.

Owns the requests and answers; each answer is compared with the disk when it comes. Clients call the engine directly:
the protocol has its own tests. Invariant: one key means one job, however often it is sent.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any

from stoker.core.answers import JobStanding, SubmitAnswer
from stoker.core.errors import StokerError
from stoker.core.job.conditions import ConditionGroup
from stoker.core.job.model import NeedOn, OnOrphan, SupersedeRunning
from stoker.core.named_events import EmitParams
from stoker.core.requests import JobChanges, JobParams, NeedParams, RestartParams, Verb, VerbParams
from stoker.engine.named_events import Emission
from stoker.engine.submit import Submission
from tests.simulation.host import Host
from tests.simulation.laws import Laws
from tests.simulation.life import Life
from tests.simulation.places import PATHS
from tests.simulation.requests import Requests
from tests.simulation.users import NO_JOB, UID, USERS, UserLaws

VERBS = (Verb.CANCEL, Verb.CANCEL, Verb.RETRY, Verb.RETRY, Verb.SKIP, Verb.HOLD, Verb.RELEASE, Verb.RESTART,
         Verb.EDIT)  # fmt: skip
QUEUES = ("default", "bulk")
EVENTS = ("go", "come")
HOST_AND_FILES = ["idle", "charging", *(f"{kind}:{path}" for kind in ("file", "file-changed") for path in PATHS)]


class Clients:
    """All clients of the daemon."""

    def __init__(self, laws: Laws, user_laws: UserLaws, requests: Requests, chance: random.Random) -> None:
        self._laws = laws
        self._user_laws = user_laws
        self._requests = requests
        self._chance = chance
        self._unanswered: list[tuple[JobParams, int]] = []
        self._unheard: list[tuple[EmitParams, int]] = []
        self._count = 0
        self.patience = 0.2  # the share of jobs that wait for conditions

    def submit(self, life: Life, host: Host) -> None:
        """Submit a new job, or one again whose answer was lost."""
        if self._unanswered and self._chance.random() < 0.3:
            asked, uid = self._unanswered[self._chance.randrange(len(self._unanswered))]
        else:
            uid = self._chance.choice(USERS)
            asked = self._invent(host, uid)
            self._unanswered.append((asked, uid))
        with life.loop.running():
            submission = Submission(life.engine.intake, [asked], uid, atomic=False)
            submission.future.add_done_callback(lambda done: self._hear(asked, uid, done))
            life.engine.inbox.post(submission)

    def _invent(self, host: Host, uid: int) -> JobParams:
        draw = self._chance
        self._count += 1
        words: dict[str, Any] = {}
        answered = self._known(uid)
        if answered and draw.random() < 0.15:
            words["needs"] = (NeedParams(job=draw.choice(answered), on=draw.choice(list(NeedOn))),)
        if draw.random() < 0.1:
            words["ttl_ms"] = draw.choice([50, 5_000, 3_600_000])
        if draw.random() < 0.1:
            words["timeout_ms"] = draw.choice([20, 500, 60_000])
        if draw.random() < 0.1:
            words["deadline"] = host.wall + draw.choice([50, 5_000, 3_600_000])
        if draw.random() < 0.15:
            words["supersede_key"] = draw.choice(["one", "two"])
            words["supersede_running"] = draw.choice(list(SupersedeRunning))
            if draw.random() < 0.3:
                words["debounce_ms"] = draw.choice([20, 2_000])
                words["debounce_max_ms"] = draw.choice([None, 2_000, 3_000])
        if draw.random() < 0.1:
            words["rate_key"] = "slow"
        if draw.random() < self.patience:
            words["wait_for"] = draw.choice(self._conditions(answered))
        if draw.random() < 0.3:
            words["resources"] = draw.choice([{"gpu": 1}, {"gpu": 2}, {"lock": 1}, {"gpu": 1, "lock": 1}])
        return JobParams(
            command="/bin/work",
            name=f"asked-{self._count}",
            idempotency_key=f"key-{self._count}",
            queue=draw.choice(["default", "default", "bulk"]),
            max_attempts=draw.choice([1, 2, 4, 8]),
            base_delay_ms=draw.choice([0, 10, 20, 200, 1_000]),
            on_orphan=draw.choice(list(OnOrphan)),
            max_orphanings=draw.choice([2, 10]),
            survive=draw.random() < 0.4,
            grace_ms=draw.choice([0, 100, 10_000]),
            **words,
        )

    def _known(self, uid: int) -> list[int]:
        """Jobs that a user may name: mostly its own."""
        answered = list(self._laws.answered)
        if self._chance.random() < 0.1:
            return answered
        return [job_id for job_id in answered if self._user_laws.owner(job_id) == uid]

    def _conditions(self, answered: list[int]) -> list[str | ConditionGroup]:
        draw = self._chance
        end = f"job:{draw.choice(answered)}" if answered else "event:come"
        groups = [
            ("event:go", end),
            ("charging", end),
            ("charging", "event:go"),
            ("idle", "event:go"),
            draw.sample(HOST_AND_FILES, 2),
        ]
        trees = [ConditionGroup(all=tuple(group)) for group in groups]
        trees += [ConditionGroup(any=tuple(group)) for group in groups]
        return [end, "event:go", *trees, *HOST_AND_FILES]

    def _hear(self, asked: JobParams, uid: int, done: asyncio.Future[Any]) -> None:
        if done.cancelled() or done.exception() is not None:
            return
        (answer,) = done.result()
        if (asked, uid) in self._unanswered:
            self._unanswered.remove((asked, uid))
        if isinstance(answer, SubmitAnswer):
            self._laws.answer(answer.id, str(asked.name))
            self._user_laws.accepted(answer.id, uid, asked.needs or ())
        elif not isinstance(answer, StokerError):
            self._laws.broken(f"a submit was answered with {answer!r}")

    def emit(self, life: Life) -> None:
        """Emit an event, or one again whose answer was lost."""
        draw = self._chance
        if self._unheard and draw.random() < 0.5:
            sent, uid = draw.choice(self._unheard)
        else:
            self._count += 1
            one, keep_ms = draw.random() < 0.2, draw.choice([None, None, 1_000, 3_600_000])
            sent = EmitParams(name=draw.choice(EVENTS), one=one, keep_ms=keep_ms, idempotency_key=f"key-{self._count}")
            uid = draw.choice(USERS)
            self._unheard.append((sent, uid))

        def hear(done: asyncio.Future[Any]) -> None:
            if not done.cancelled() and done.exception() is None:
                if (sent, uid) in self._unheard:
                    self._unheard.remove((sent, uid))
                self._laws.emitted(done.result()["id"], str(sent.idempotency_key))

        with life.loop.running():
            emission = Emission(sent, uid)
            emission.future.add_done_callback(hear)
            life.engine.inbox.post(emission)

    def speak(self, life: Life) -> None:
        """Send a random verb about a random job that a client knows, now and then of another user or none."""
        draw = self._chance
        job_id = draw.choice(list(self._laws.answered)[-20:])
        uid = self._user_laws.owner(job_id) if draw.random() < 0.9 else draw.choice(USERS)
        self._say(life, draw.choice(VERBS), job_id if draw.random() < 0.98 else NO_JOB, uid, yes=draw.random() < 0.5)

    def cancel(self, life: Life, job_ids: list[int]) -> None:
        for job_id in job_ids:
            self._say(life, Verb.CANCEL, job_id, self._user_laws.owner(job_id), yes=False)

    def _say(self, life: Life, verb: Verb, job_id: int, uid: int, *, yes: bool) -> None:
        if verb is Verb.EDIT:
            changes = JobChanges(priority=self._chance.randrange(-3, 4), ttl_ms=self._chance.choice([None, 5_000]))

        async def send(note: str) -> JobStanding:
            await self._user_laws.check(life, job_id, uid)
            if verb is Verb.EDIT:
                return await life.service.edit(job_id, changes, uid, note)
            sent = (
                RestartParams(id=job_id, reason=note, yes=yes)
                if verb is Verb.RESTART
                else VerbParams(id=job_id, reason=note)
            )
            return await life.service.command(verb, sent, uid)

        def hear(answer: JobStanding) -> None:
            self._laws.verb_answered(job_id, answer.state.value)

        stops = job_id if verb in (Verb.CANCEL, Verb.RESTART) else None
        self._requests.ask(life, f"{verb} {job_id}", send, hear, stops=stops)

    def pause_or_resume_queue(self, life: Life, *, paused: bool | None = None) -> None:
        """`paused`: as it is to be; None: as chance wants it."""
        names = QUEUES if paused is False else [self._chance.choice(QUEUES)]
        for name in names:
            wish = self._chance.random() < 0.4 if paused is None else paused
            self._requests.ask(
                life,
                f"pause queue {name}",
                lambda note, name=name, wish=wish: life.service.pause_queue(name, UID, note, paused=wish),  # type: ignore[misc]
                lambda _answer: None,
            )
