"""The one thing that keeps a job from running now: `explain(job, facts)`.

Owns the closed list of blockers and the sentence for each. A blocker is computed when it is asked for, from the facts
in the facts, and never stored. The checks have the order of the daemon's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stoker.core.explain_cluster import engine_away, on_cluster
from stoker.core.explain_resources import MOST_NAMED, at_quota, jobs_text, lacking
from stoker.core.job.admission import paused
from stoker.core.job.cause import cause, in_brackets, stop_words
from stoker.core.job.conditions import why_open
from stoker.core.job.dependencies import UNMET
from stoker.core.job.model import Attempt, Job, Need, Outcome, OutcomeKind, Reason, State, StopReason, When
from stoker.core.job.run_if import RunIf
from stoker.core.job.verdict import suspected_limit
from stoker.core.job_facts import Blocker, JobFacts
from stoker.core.reason_words import last_line
from stoker.core.standstill import Standstill
from stoker.core.units import counted, few, span
from stoker.core.workflow.fan_out import COLLECT
from stoker.core.workflow.state import Intent

OUTPUT_FORMS = "lines KEY=VALUE, blocks that begin with KEY<<END and end with a line END, or JSON objects"
NEWLINE = "\n"


def explain(job: Job, facts: JobFacts) -> Blocker:
    """Why the job is in its state, in one sentence."""
    match job.state:
        case State.WAITING:
            return _waiting(job, facts)
        case State.QUEUED:
            return _queued(job, facts)
        case State.RUNNING:
            return _running(job, facts)
        case State.HELD:
            return _held(job, facts)
    return _final(job, facts)


def _waiting(job: Job, facts: JobFacts) -> Blocker:
    return _awaits(job, facts) or _awaits_time(job, facts)


def _awaits(job: Job, facts: JobFacts) -> Blocker | None:
    if job.needs_open:
        return _needing(job, list(facts.open_needs))
    if job.undecided and job.spec.run_if is not None:
        message = f"its needs have ended, and its `if` is being decided: {job.spec.run_if.text}"
        return Blocker("condition", message, f"stoker why {job.id}", {"if": job.spec.run_if.text})
    if job.spec.wait_for is not None and job.conditions_open:
        since, now = job.created_at, facts.now.wall
        return Blocker(*why_open(job.spec.wait_for, job.conditions_open, since, now, facts.seen))
    return None


def _awaits_time(job: Job, facts: JobFacts) -> Blocker:
    wake_ms = max(0, (job.wake_at or 0) - facts.now.steady)
    run_ms = max(0, (job.spec.run_at or 0) - facts.now.wall)
    # Both may just have passed: then the next turn of the daemon queues the job.
    if wake_ms and facts.ended is not None and (end := facts.ended.outcome) is not None and _lacked(end):
        message = (
            f"the host could not start it ({end.error}), which uses up no attempt; the next try is {_when(wake_ms)}"
        )
        return Blocker("host", message, "stoker status", {"error": end.error, "next_try_in_ms": wake_ms})
    if wake_ms and job.spec.debounce_ms and not job.attempts:
        message = f"starts {_when(wake_ms)}, unless a newer job of its supersede_key takes its place (debounce_ms)"
        details = {"wake_in_ms": wake_ms, "debounce_ms": job.spec.debounce_ms}
        if job.debounce_by is not None:
            details["latest_in_ms"] = max(0, job.debounce_by - facts.now.steady)
            message += f"; at the latest it starts {_when(details['latest_in_ms'])}"
        return Blocker("run_at", message, None, details)
    if wake_ms or (job.wake_at is not None and not run_ms):
        message = f"{_before_backoff(job)}; the next try is {_when(wake_ms)}"
        details = {"wake_in_ms": wake_ms, "failures": job.failures}
        return Blocker("backoff", message + _suspected(facts), f"stoker logs {job.id}", details)
    return Blocker("run_at", f"was asked to start {_when(run_ms)}", None, {"run_at": job.spec.run_at})


def _needing(job: Job, ids: Sequence[int]) -> Blocker:
    if job.id in ids:
        ident = job.workflow_id
        message = f"is a handler of workflow {ident}: waits until the steps before it have ended"
        return Blocker("needs", message, f"stoker workflow show {ident}", {"workflow": ident})
    hint = f"stoker why {ids[0]}" if ids else None
    of_key = job.spec.supersede_key is not None and not {need.job for need in job.spec.needs}.issuperset(ids)
    rule = "; jobs of one supersede_key run one after the other" if of_key else ""
    if job.not_needed:
        rule += "; if none of them fails it is skipped (not_needed), as another need of it ended so"
    return Blocker("needs", f"waits for {jobs_text(ids)} to end{rule}", hint, {"needs": ids})


def _lacked(outcome: Outcome) -> bool:
    """Whether the host could not start it. It is the only outcome without a start after which a job waits."""
    return outcome.kind is OutcomeKind.NEVER_STARTED and outcome.error is not None


def _before_backoff(job: Job) -> str:
    if job.exit_code is not None and job.exit_code == job.spec.checkpoint_exit_code:
        return f"saved its state and asked to be run again (exit {job.exit_code})"
    return f"failed {job.failures} of {counted(job.spec.max_attempts, 'time')}"


def _queued(job: Job, facts: JobFacts) -> Blocker:
    """The first check that keeps the job from starting, in the daemon's own order."""
    for check in (
        _closed,
        _workflow,
        _paused,
        _throttled,
        _capped,
        at_quota,
        _rated,
        lacking,
        engine_away,
        _no_slot,
        _short_host,
    ):
        blocker = check(job, facts)
        if blocker is not None:
            return blocker
    return Blocker("slot", "may start at any moment", None, {"ahead": facts.ahead})


def _closed(_job: Job, facts: JobFacts) -> Blocker | None:
    if facts.closed is None:
        return None
    return Blocker("slot", f"the daemon starts nothing now: {facts.closed}", "stoker status", {"closed": facts.closed})


def _workflow(job: Job, facts: JobFacts) -> Blocker | None:
    ident = job.workflow_id
    if facts.goes_after:
        first = facts.goes_after[0]
        message = f"workflow {ident}, of which it is step {job.step!r}, runs after workflow {first} of the same key"
        details = {"workflow": ident, "step": job.step, "goes_after": list(facts.goes_after)}
        return Blocker("workflow_waits", message, f"stoker workflow show {first}", details)
    if facts.intent is Intent.RUN:
        return None
    what, hint = {
        Intent.PAUSE: ("is paused", f"stoker workflow resume {ident}"),
        Intent.ROLLBACK: ("is being rolled back", f"stoker workflow show {ident}"),
        Intent.CANCEL: ("is being cancelled", f"stoker workflow show {ident}"),
        Intent.ABORT: ("is being ended because of a failure or a limit", f"stoker workflow show {ident}"),
    }[facts.intent]
    message = f"workflow {ident}, of which it is step {job.step!r}, {what}"
    return Blocker("workflow_paused", message, hint, {"workflow": ident, "step": job.step, "intent": facts.intent})


def _paused(_job: Job, facts: JobFacts) -> Blocker | None:
    name = facts.queue.name
    if not facts.queue.paused:
        return None
    return Blocker("queue_paused", f"queue {name!r} is paused", f"stoker queue resume {name}", {"queue": name})


def _throttled(_job: Job, facts: JobFacts) -> Blocker | None:
    if not facts.throttled_by or not paused(facts.queue, throttled=True):
        return None
    message = f"queue {facts.queue.name!r} is of class low, and the host is busy ({', '.join(facts.throttled_by)})"
    return Blocker("throttled", message, "stoker status", {"causes": list(facts.throttled_by)})


def _capped(_job: Job, facts: JobFacts) -> Blocker | None:
    queue = facts.queue
    if facts.narrowed is not None and facts.queue_running >= facts.narrowed:
        causes = ", ".join(facts.throttled_by) or "until a moment ago"
        jobs = counted(facts.queue_running, "job")
        message = f"queue {queue.name!r} runs {jobs}; its limit is {facts.narrowed} while the host is busy ({causes})"
        details = {"limit": facts.narrowed, "causes": list(facts.throttled_by)}
        return Blocker("throttled", message, "stoker status", details)
    if queue.max_running is None or facts.queue_running < queue.max_running:
        return None
    if facts.standstill is not None:
        return _standing_still(facts.standstill, facts)
    return Blocker(
        "queue_full",
        f"queue {queue.name!r} runs {counted(facts.queue_running, 'job')}, its limit max_running",
        f"stoker queue set {queue.name} --max-running {queue.max_running + 1}",
        {"max_running": queue.max_running},
    )


def _rated(_job: Job, facts: JobFacts) -> Blocker | None:
    """Of two rates without a token the one that waits longer."""
    if not facts.rates:
        return None
    owner, wait = max(facts.rates.items(), key=lambda each: each[1].next_token_ms)
    ahead = f"; {counted(facts.ahead, 'job')} of its queue before it" if facts.ahead else ""
    message = f"{owner} may start {wait.rate}; the next start is {_when(wait.next_token_ms)}{ahead}"
    hint = "stoker queue ls" if owner.startswith("queue") else "stoker rate ls"
    details = {"rate": wait.rate, "next_token_in_ms": wait.next_token_ms, "ahead": facts.ahead}
    return Blocker("rate", message, hint, details)


def _no_slot(_job: Job, facts: JobFacts) -> Blocker | None:
    if facts.cluster is not None or facts.running < facts.slots:
        return None
    if facts.standstill is not None:
        return _standing_still(facts.standstill, facts)
    taken = "the only slot is taken" if facts.slots == 1 else f"all {facts.slots} slots are taken"
    ahead = f"{counted(facts.ahead, 'job')} of its queue before it" if facts.ahead else "it is the next of its queue"
    message = f"{taken}; {ahead}"
    return Blocker("slot", message, "stoker ls --state running", {"slots": facts.slots, "ahead": facts.ahead})


def _standing_still(found: Standstill, facts: JobFacts) -> Blocker:
    if not facts.hidden.isdisjoint(found.named):
        message = f"all running jobs of {found.where} ({len(found.waits)}) wait for jobs that are queued behind them"
        return Blocker("standstill", message, found.remedy, {"queue": found.queue, "waits": []})
    waits = [
        {"job": job, "jobs": list(wait.jobs), "workflow": wait.workflow}
        for job, each in found.waits.items()
        for wait in each
    ]
    return Blocker("standstill", str(found), found.remedy, {"queue": found.queue, "waits": waits})


def _short_host(_job: Job, facts: JobFacts) -> Blocker | None:
    if facts.cluster is not None or not facts.shortage.lasts:
        return None
    wait_ms = max(0, facts.shortage.try_at - facts.now.steady)
    message = f"the host cannot start a process ({facts.shortage.error}); the next try is {_when(wait_ms)}"
    return Blocker("host", message, "stoker status", {"error": facts.shortage.error, "next_try_in_ms": wait_ms})


def _running(job: Job, facts: JobFacts) -> Blocker:
    attempt = facts.attempt
    if attempt is not None and attempt.stop_reason is not None:
        message = f"is being stopped ({stop_words(job.spec, attempt.stop_reason)}); {_next_step(job, attempt, facts)}"
        kill = " ".join(["sudo kill", *map(str, facts.unstoppable[:MOST_NAMED])])
        hint = kill if facts.unstoppable else f"stoker wait {job.id}"
        details: dict[str, Any] = {"stop_reason": attempt.stop_reason.value}
        if facts.unstoppable:
            details["unstoppable"] = list(facts.unstoppable)
        return Blocker("stopping", message, hint, details)
    return on_cluster(job, facts) or _at_work(job, facts)


def _at_work(job: Job, facts: JobFacts) -> Blocker:
    attempt = facts.attempt
    pid = "" if job.pid is None else f", pid {job.pid}"
    if attempt is not None and facts.silent:
        message = f"is running (attempt {job.attempts}{pid}) as far as is known: {_unanswered(attempt)}"
        return Blocker("running", message, "stoker status", {"launcher": attempt.launcher})
    if facts.frozen:
        queue, causes = facts.queue.name, ", ".join(facts.throttled_by) or "until a moment ago"
        message = f"is frozen (attempt {job.attempts}{pid}): queue {queue!r} is of class low, and the host is busy"
        return Blocker("throttled", f"{message} ({causes})", "stoker status", {"frozen": True})
    newer = "" if job.superseded_by is None else f"; job {job.superseded_by} takes its place after this attempt"
    message = f"is running (attempt {job.attempts}{pid}){newer}"
    if facts.unheard_ms is None and facts.stale_ms is not None:
        stale = f" and has left no checkpoint for {span(facts.stale_ms)}: it may hang, or forget to save"
        return Blocker("running", message + stale, f"stoker worker {job.id}", {"stale_ms": facts.stale_ms})
    if facts.unheard_ms is None:
        return Blocker("running", message, f"stoker logs -f {job.id}")
    left_ms = max(0, job.spec.unresponsive_kill_ms - facts.unheard_ms)
    unheard = f" and has given no sign of life for {span(facts.unheard_ms)}; it is stopped {_when(left_ms)}"
    return Blocker("unresponsive", message + unheard, f"stoker logs {job.id}", {"silent_ms": facts.unheard_ms})


def _next_step(job: Job, attempt: Attempt, facts: JobFacts) -> str:
    """The next event of a stop, or the obstacle in its way."""
    if facts.asleep:
        return f"pid {job.pid} sleeps in the kernel where no signal reaches it, perhaps on a dead file system"
    if facts.unstoppable:
        pids = few(facts.unstoppable, MOST_NAMED)
        return f"pid {pids} became another user, which this daemon may not signal; the attempt ends when it has ended"
    return _unanswered(attempt) if facts.silent else "SIGKILL follows after its grace"


def _unanswered(attempt: Attempt) -> str:
    return f"its launcher {attempt.launcher} lives and does not answer"


_HELD = {
    Reason.USER: "was held by a person",
    Reason.POISON: "ended unseen too often: it may be what brings the host down",
    Reason.STUCK: "its worker may still be alive but cannot be proven to belong to it, so it was not signalled",
    Reason.ORPHANED: "had an unseen end, so a person must decide",
    Reason.LOST: "was lost: it is not known how, or whether, it ended",
    Reason.RESTORED: "may have run since the backup was made that was restored, so a person must decide",
    Reason.DAMAGED: "was not started: its row in the database was damaged, as it did not match its checksum",
    Reason.SECRETS: "was not started: its secrets cannot be given to it",
    Reason.SPAWN_ERROR: "was not started: its user may not have jobs here any more",
    Reason.SHUTDOWN: "was stopped with the daemon, and asks a person to decide (on_orphan = hold)",
}


def _held(job: Job, facts: JobFacts) -> Blocker:
    why = _HELD.get(job.reason or Reason.USER)
    last = 0 if facts.ended is None else facts.ended.ordinal
    if job.reason is Reason.LOST and facts.attempt is None and last < job.attempts:
        why = f"was lost: the database has no attempt {job.attempts} of it, as if it was damaged or restored in part"
    if why is None:  # the end of an attempt that was held as stuck
        why = f"ended{in_brackets(job)} while its worker could not be proven, so a person must decide"
    if facts.attempt is not None:
        identity = facts.attempt.identity
        if job.reason is Reason.STUCK and facts.attempt.stop_reason is StopReason.RESTART:
            why = "was to be restarted, but its last worker cannot be proven gone"
        where = f"; look at pid {identity.pid}" if identity is not None else ""
        return Blocker("held", why + where, f"stoker show {job.id}", {"reason": job.reason})
    if job.reason is Reason.ORPHANED and facts.ended is not None and facts.ended.stop_reason is StopReason.ORPHANED:
        why = "ran while no daemon was there and was stopped for that, so a person must decide"
    hint = f"stoker release {job.id}, or stoker cancel {job.id}"
    if job.reason is Reason.DAMAGED:
        hint = f"stoker doctor says whether it can be repaired; if so release it then, if not: stoker cancel {job.id}"
    if job.reason in (Reason.SECRETS, Reason.SPAWN_ERROR):
        error = None if facts.ended is None or facts.ended.outcome is None else facts.ended.outcome.error
        why = why if error is None else f"was not started: {error}"
    if job.reason is Reason.SECRETS:
        hint = f"submit it again with its secrets, then: stoker cancel {job.id}"
    return Blocker("held", why, hint, {"reason": job.reason})


_ENDED = {
    State.SUCCEEDED: "succeeded",
    State.FAILED: "failed",
    State.CANCELLED: "was cancelled",
    State.EXPIRED: "expired",
    State.SUPERSEDED: "was superseded",
    State.SKIPPED: "was skipped",
}

_DECIDED = (Reason.NOT_NEEDED, Reason.CONDITION)


def _final(job: Job, facts: JobFacts) -> Blocker:
    hint = f"stoker retry {job.id}" if job.state in (State.FAILED, State.CANCELLED, State.EXPIRED) else None
    if hint is not None and job.spec.command == COLLECT:  # alone it would find the same ends of the steps again
        hint = f"stoker workflow retry {job.workflow_id} --failed"
    if job.state is State.SKIPPED and job.reason is Reason.USER:
        hint = f"stoker history {job.id}"  # with the person and the reason
    if job.reason in _DECIDED and job.spec.run_if is not None and not job.undecided:
        return _by_condition(job, job.spec.run_if, facts)
    if job.reason in UNMET and job.spec.needs:
        return _unmet(job, facts)
    if job.state is State.SUPERSEDED and job.superseded_by is not None:
        newer = job.superseded_by
        details = {"reason": job.reason, "superseded_by": newer}
        return Blocker("final", f"was superseded by job {newer}, which is newer", f"stoker why {newer}", details)
    if job.state is not State.FAILED:
        return Blocker("final", f"{_ENDED[job.state]}{cause(job)}", hint, {"reason": job.reason})
    if job.reason is Reason.OUTPUT and not job.spec.produces:
        hint = f"let the job write to $STOKER_OUTPUT {OUTPUT_FORMS}; then: stoker retry {job.id}"
    why = _error_of_attempt(job, facts) or cause(job) + _suspected(facts)
    return Blocker("final", f"failed{why}", hint, {"reason": job.reason})


def _by_condition(job: Job, asked: RunIf, facts: JobFacts) -> Blocker:
    """Its `if` was false, or had no value."""
    why = facts.decision or f"if: {asked.text}"
    hint = f"stoker show {job.id}" if job.reason is Reason.NOT_NEEDED else f"stoker retry {job.id}"
    return Blocker("final", f"{_ENDED[job.state]}{in_brackets(job)}: {why}", hint, {"reason": job.reason})


def _error_of_attempt(job: Job, facts: JobFacts) -> str:
    """The error of the last attempt, if it says more than the reason of the job."""
    outcome = None if facts.ended is None else facts.ended.outcome
    if outcome is None or not outcome.error:
        return ""
    if outcome.kind is OutcomeKind.EXCEPTION and (job.reason is Reason.EXIT or job.spec.command == COLLECT):
        return f": {last_line(outcome.error)}"
    if job.reason in (Reason.OUTPUT, Reason.SPAWN_ERROR):
        return f"{cause(job)}: {outcome.error.partition(NEWLINE)[0]}"
    return ""


def _unmet(job: Job, facts: JobFacts) -> Blocker:
    """Name the needs that were not met; all of them if that is not known, as one may be gone or have run again."""
    needs = [need for need in job.spec.needs if need.job != job.id]
    named = [need for need in needs if need.job in facts.unmet] or needs
    if job.reason is Reason.NOT_NEEDED and needs != [*job.spec.needs] and not facts.unmet:  # the gate of a handler
        why, hint = "it is a handler for another end of its workflow", f"stoker workflow show {job.workflow_id}"
    else:
        why, hint = f"it needed {_needs(job, named)}", f"stoker why {named[0].job}"
    details = {"reason": job.reason, "needs": [need.job for need in needs], "unmet": list(facts.unmet)}
    return Blocker("final", f"{_ENDED[job.state]}{in_brackets(job)}: {why}", hint, details)


def _needs(job: Job, named: Sequence[Need]) -> str:
    end = {When.ANY_OK: "succeed", When.ANY_FAILED: "fail"}.get(job.spec.when or When.EACH)
    if end is not None:
        return f"one of {jobs_text([need.job for need in named])} to {end}"
    return jobs_text([f"{need.job} ({need.on.value})" for need in named])


def _suspected(facts: JobFacts) -> str:
    """The limit that may have caused the last end."""
    clause = None if facts.ended is None else suspected_limit(facts.ended.bounds, facts.ended.outcome)
    return "" if clause is None else f"; {clause}"


def _when(milliseconds: int) -> str:
    return f"in {span(milliseconds)}" if milliseconds else "now"
