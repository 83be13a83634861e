"""Submits: one Submission is one request, answered after the commit that holds all of its jobs.

Owns the way from a well-formed request to its rows: idempotency, needs, what it supersedes.
Invariants: all jobs are accepted or each by itself, as asked; the same key and spec give the same job; a refused job
leaves nothing behind.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Generator, Sequence

import msgspec
from msgspec import Struct

from stoker.core.access import Role
from stoker.core.answers import SubmitAnswer
from stoker.core.errors import IdempotencyConflict, InvalidParams, JobNotFound, StokerError
from stoker.core.job import events as ev
from stoker.core.job.dependencies import graver, need_failed, need_met
from stoker.core.job.model import Job, Need, Queue, Spec, State
from stoker.core.job.transition import debounce_by
from stoker.core.requests import JobDefaults, JobParams
from stoker.core.schedule.model import Origin
from stoker.core.units import spoken
from stoker.engine import conditions, superseding
from stoker.engine.intake import CommandRequest, Intake, SecretDigest, from_schedule, no_secrets
from stoker.engine.spec_defaults import check, needs_of
from stoker.engine.turn import Turn
from stoker.store.keys import Keyed, NewKey
from stoker.store.loading import Wanted

_FIRST_SENT = (*JobDefaults.__struct_fields__, "command", "args")
MOST_SHOWN = 80  # characters of a value in a message
Answers = list[SubmitAnswer | StokerError]


class Prepared(Struct, frozen=True):
    """A job that will be accepted: its spec, and its needs that are not met."""

    spec: Spec
    open_needs: tuple[Need, ...]
    failed_need: ev.NeedFailed | None
    sent: JobParams
    digest: bytes


class Submission(CommandRequest[Answers]):
    """`origin`: the schedule that submits the jobs."""

    def __init__(
        self,
        intake: Intake,
        jobs: Sequence[JobParams],
        owner_uid: int,
        *,
        atomic: bool,
        origin: Origin | None = None,
        role: Role = Role.SUBMITTER,
    ) -> None:
        super().__init__(jobs, role, intake.new_future())
        self._intake = intake
        self._jobs = jobs
        self._owner = owner_uid
        self._atomic = atomic
        self._origin = origin

    def declare_reads(self, wanted: Wanted) -> None:
        for sent in self._jobs:
            if sent.idempotency_key:
                wanted.keys.add((self._owner, sent.idempotency_key))
            if sent.supersede_key:
                wanted.supersede_keys.add((self._owner, sent.supersede_key))
            if sent.wait_for:
                conditions.declare_reads(wanted, sent.wait_for, self._owner)
            if sent.needs:
                wanted.ids.update(need if isinstance(need, int) else need.job for need in sent.needs)

    def apply_to(self, turn: Turn) -> Generator[None]:
        """Accept the valid jobs; the answers go out after the commit."""
        if self._intake.closed is not None:
            raise self._intake.closed
        users = turn.memory.users
        if any((self._owner, sent.idempotency_key) not in turn.loaded.keys for sent in self._jobs):
            users.check_pace(self._owner, turn.now.steady)
        results = yield from (self.accept_all(turn) if self._atomic else self._each(turn))
        accepted = sum(isinstance(one, SubmitAnswer) and not one.existing for one in results)
        users.submitted(self._owner, accepted, turn.now.steady)
        self.answer_after(turn, results)

    def accept_all(self, turn: Turn) -> Generator[None, None, Answers]:
        """Accept all jobs or none: every job is checked before the first is stored."""
        keys = [sent.idempotency_key for sent in self._jobs if sent.idempotency_key]
        if len(set(keys)) != len(keys):
            raise InvalidParams(
                "idempotency_key: two jobs of one atomic request have the same key", path="idempotency_key"
            )
        ahead: Counter[str] = Counter()
        prepared = []
        for index in range(len(self._jobs)):
            try:
                one = self._prepare(turn, index, ahead)
            except StokerError as error:
                raise error.within(f"jobs[{index}]") if len(self._jobs) > 1 else error from None
            prepared.append(one)
            if isinstance(one, Prepared):
                ahead[one.spec.queue] += 1
            yield
        answers: Answers = []
        for one in prepared:
            answers.append(one if isinstance(one, SubmitAnswer) else self._accept(turn, one))
            yield
        return answers

    def _each(self, turn: Turn) -> Generator[None, None, Answers]:
        """Accept each job by itself: a mistake in one is the answer for that job only."""
        answers: Answers = []
        ahead: Counter[str] = Counter()  # nothing, as each job is stored before the next one is checked
        for index in range(len(self._jobs)):
            answers.append(self._one(turn, index, ahead))
            yield
        return answers

    def _one(self, turn: Turn, index: int, ahead: Counter[str]) -> SubmitAnswer | StokerError:
        try:
            prepared = self._prepare(turn, index, ahead)
        except StokerError as error:
            return error.as_value()
        return prepared if isinstance(prepared, SubmitAnswer) else self._accept(turn, prepared)

    def _prepare(self, turn: Turn, index: int, ahead: Counter[str]) -> Prepared | SubmitAnswer:
        """All checks that can refuse a job; changes nothing. `ahead`: jobs about to be accepted."""
        sent, problem = self._jobs[index], self.problems[index]
        if problem is not None:
            raise problem
        digest = key_digest(sent, self._intake.secret_digest) if sent.idempotency_key else b""
        earlier = self._earlier_answer(turn, sent, sent.idempotency_key, digest) if sent.idempotency_key else None
        if earlier is not None:
            return earlier
        queue = self._intake.queue(turn, sent)
        older = self._older(turn, sent.supersede_key or None)
        self._intake.check_room(turn, queue, self._owner, superseding.without_superseded(older, ahead))
        spec = from_schedule(self._intake.specs.resolve(sent, queue, needs_of(sent)), self._origin)
        check(spec, turn.now, turn.memory)
        conditions.check_targets(turn, spec.wait_for, self._owner)
        superseding.check_needs(spec, older)
        open_needs, failed = self._needs(turn, spec)
        return Prepared(spec, open_needs, failed, sent, digest)

    def _earlier_answer(self, turn: Turn, sent: JobParams, key: str, digest: bytes) -> SubmitAnswer | None:
        """The answer to an earlier submit with this key. Raises IdempotencyConflict."""
        keyed = turn.loaded.keys.get((self._owner, key))
        if keyed is None:
            return None
        if keyed.spec_hash != digest:
            raise self._conflict(turn, sent, keyed)
        job = turn.find(keyed.job_id)
        state = State(str(keyed.purged_state)) if job is None else job.state
        return SubmitAnswer(keyed.job_id, state, existing=True)

    def _conflict(self, turn: Turn, sent: JobParams, keyed: Keyed) -> IdempotencyConflict:
        """Names the fields that differ, if the job still exists and the requested queue is known."""
        job = turn.find(keyed.job_id)
        queue = turn.memory.queues.get(sent.queue if isinstance(sent.queue, str) else "default")
        differing = [] if job is None or queue is None else self._differing(job, sent, queue)
        details = f": {'; '.join(differing)}" if differing else ""
        return IdempotencyConflict(
            f"idempotency_key: {sent.idempotency_key!r} was used for job {keyed.job_id} with another spec{details}",
            hint=f"stoker show {keyed.job_id}, or choose another key",
            path="idempotency_key",
            id=keyed.job_id,
        )

    def _differing(self, job: Job, sent: JobParams, queue: Queue) -> list[str]:
        """`working_dir is /b and was /a`, field by field; values that are long or may be secret are left out."""
        asked, _ = self._intake.specs.read(sent, queue, needs_of(sent))
        differing = []
        for name in Spec.__struct_fields__:
            now, before = getattr(asked, name), getattr(job.spec, name)
            if now != before:
                short = name != "env" and max(len(str(now)), len(str(before))) <= MOST_SHOWN
                was = f"is {_shown(name, now)} and was {_shown(name, before)}"
                differing.append(f"{name} {was if short else 'differs'}")
        return differing

    def _needs(self, turn: Turn, spec: Spec) -> tuple[tuple[Need, ...], ev.NeedFailed | None]:
        """The needs that are not met yet, and the gravest that can never be met."""
        unmet: list[Need] = []
        failed: ev.NeedFailed | None = None
        for index, need in enumerate(spec.needs):
            job = turn.find(need.job)
            if job is None or self._owner not in (0, job.owner_uid):
                path = f"needs[{index}]"
                raise JobNotFound(f"{path}: there is no job {need.job} of yours", hint="stoker ls --all", path=path)
            met = need_met(need.on, job)
            if met is False:
                failed = graver(failed, need_failed(need.on, job))
            if not met:
                unmet.append(need)
        return tuple(unmet), failed

    def _older(self, turn: Turn, supersede_key: str | None) -> list[Job]:
        """The jobs that a job with this key replaces."""
        return superseding.unfinished(turn, None if supersede_key is None else (self._owner, supersede_key))

    def _accept(self, turn: Turn, prepared: Prepared) -> SubmitAnswer:
        """Store a job. One that is skipped at once, as a need of it cannot be met, replaces no other."""
        key = prepared.sent.idempotency_key or None
        older = self._older(turn, prepared.spec.supersede_key) if prepared.failed_need is None else []
        open_needs = (*prepared.open_needs, *superseding.needs_of_running(turn, older))
        by = debounce_by(prepared.spec, older, turn.now)
        job = self._intake.accept(turn, prepared.spec, self._owner, open_needs, key, self.seen, debounce_by=by)
        if prepared.sent.secrets:
            turn.batch.secrets[job.id] = prepared.sent.secrets
        self._remember_key(turn, prepared, job.id)
        if prepared.failed_need is not None:
            job = turn.step(job.id, prepared.failed_need)
        if job.supersedes is None:
            return SubmitAnswer(job.id, job.state)
        superseded, running = superseding.supersede(turn, job, older)
        superseding.remember(turn, job)
        return SubmitAnswer(job.id, job.state, superseded=tuple(superseded), starts_after=tuple(running))

    def _remember_key(self, turn: Turn, prepared: Prepared, job_id: int) -> None:
        key = prepared.sent.idempotency_key
        if not key:
            return
        turn.batch.keys.append(NewKey(self._owner, key, prepared.digest, job_id, turn.now.wall))
        turn.loaded.keys[self._owner, key] = Keyed(prepared.digest, job_id)


def _shown(name: str, value: object) -> str:
    if isinstance(value, tuple):
        return " ".join(map(repr, value)) or "empty"
    return "not set" if value is None else spoken(name, value) if isinstance(value, int) else repr(value)


def key_digest(sent: JobParams, secret_digest: SecretDigest = no_secrets) -> bytes:
    """The hash of a spec as it was sent, with its key. Unset fields are left out, so that new fields change no hash.

    Of a secret it has a keyed digest: a reader of the hash has no key to try values with.

    The order of the fields is part of it, and stays that of the first version: the command came after the defaults.
    """
    built = msgspec.to_builtins(sent)
    if sent.secrets:
        built["secrets"] = {name: secret_digest(name, value) for name, value in sorted(sent.secrets.items())}
    first = {name: built[name] for name in _FIRST_SENT if name in built}
    return hashlib.blake2b(msgspec.json.encode(first | built), digest_size=16).digest()
