"""Carries out what a turn decided, once it is on disk, then lets everybody know.

Owns the way from effects to executors, from ends to acknowledgements and dependents, and the verbs that wait
to hear whether their stop came in time. Refuses to decide: all of it follows from committed steps.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

from stoker.core.clock import wall_ms
from stoker.core.job import events as ev
from stoker.core.job.model import ExecutionMode, State
from stoker.engine.attempt_inputs import Starter
from stoker.engine.log_events import announce, announce_settings
from stoker.engine.memory import LiveState
from stoker.engine.messages import Dependents, Message, VerbCommand, standing
from stoker.engine.subscriptions import Subscriptions
from stoker.engine.timers import Timers
from stoker.engine.turn import Transition, Turn
from stoker.executors.base import Executor, Start
from stoker.telemetry.otel import Telemetry

# A launcher that does not answer must not keep a client waiting: the stop is on disk and will be carried out.
PATIENCE_S = 3.0
ANNOUNCED_AT_ONCE = 512


class Effects:
    """Acts on committed turns."""

    def __init__(
        self,
        memory: LiveState,
        executors: Mapping[ExecutionMode, Executor],
        timers: Timers,
        subscriptions: Subscriptions,
        telemetry: Telemetry,
        post: Callable[[Message], None],
        start: Starter,
    ) -> None:
        self._memory = memory
        self._executors = executors
        self._timers = timers
        self._subscriptions = subscriptions
        self._telemetry = telemetry
        self._post = post
        self._start_with_provisions = start
        self._stopping: dict[str, list[VerbCommand]] = {}

    def act(self, turn: Turn) -> None:
        """Everything that follows from a committed turn, in order: effects, answers, announcements."""
        self._start(turn)
        self._stop(turn)
        self._settle(turn)
        self._pend(turn)
        for answer in turn.answers:
            answer()
        self._subscriptions.tell(turn.transitions, self._memory.last_seq)
        if turn.transitions:
            # Launches and answers are written in the next round of the event loop: they go before the log.
            asyncio.get_running_loop().call_soon(self._announce, turn.transitions, wall_ms())
        announce_settings(turn.settings_changed)

    def _announce(self, transitions: Sequence[Transition], committed_at: int) -> None:
        """In pieces: each transition is a line of the log."""
        announce(transitions[:ANNOUNCED_AT_ONCE], self._telemetry, committed_at)
        rest = transitions[ANNOUNCED_AT_ONCE:]
        if rest:
            asyncio.get_running_loop().call_soon(self._announce, rest, committed_at)

    def _start(self, turn: Turn) -> None:
        starts: dict[ExecutionMode, list[Start]] = {}
        for effect in turn.effects:
            if isinstance(effect, ev.Launch):
                run = self._memory.by_run(effect.attempt.run_id)
                if run is not None:
                    starts.setdefault(run.job.spec.execution_mode, []).append(Start(run.job, run.attempt))
        for mode, batch in starts.items():
            self._start_with_provisions(mode, batch)

    def _stop(self, turn: Turn) -> None:
        for effect in turn.effects:
            if isinstance(effect, ev.Stop):
                run = self._memory.by_run(effect.run_id)
                if run is not None:
                    self._executors[run.job.spec.execution_mode].stop(effect.run_id, effect.grace_ms)
                if effect.run_id in self._stopping:
                    asyncio.get_running_loop().call_later(PATIENCE_S, self._answer_stopping, effect.run_id)
            elif isinstance(effect, ev.Reassign):
                run = self._memory.by_run(effect.run_id)
                if run is not None:
                    self._executors[run.job.spec.execution_mode].reassign(effect.run_id, run.attempt.identity)

    def _settle(self, turn: Turn) -> None:
        settled = [effect.run_id for effect in turn.effects if isinstance(effect, ev.Settled)]
        if settled:
            for executor in self._executors.values():
                executor.acknowledge(settled)
            if self._memory.work_files is not None:
                self._memory.work_files.remove(settled)
            self._timers.disarm(settled)
            self._conclude(turn)
        ended = {effect.job_id: effect.after for effect in turn.effects if isinstance(effect, ev.TellDependents)}
        waited_for = {job_id: after for job_id, after in ended.items() if job_id in self._memory.needed}
        if waited_for:
            self._post(Dependents(waited_for))

    def _pend(self, turn: Turn) -> None:
        for transition in turn.transitions:
            if transition.job.state in (State.WAITING, State.QUEUED):
                self._timers.pend(transition.job, turn.now)
        shortage = self._memory.shortage
        if shortage.lasts and shortage.try_at > turn.now.steady:
            self._timers.pend_at(shortage.try_at, None)

    # --- verbs that wait for their stop ---

    def await_delivery(self, run_id: str, command: VerbCommand) -> None:
        """Answer `command` when its stop is on disk, and it is known whether it came before the exit."""
        self._stopping.setdefault(run_id, []).append(command)

    def delivered(self, run_id: str, delivery: ev.Delivered) -> None:
        """The launcher says what became of the first signal."""
        if delivery.delivered:
            self._answer_stopping(run_id)

    def _answer_stopping(self, run_id: str) -> None:
        run = self._memory.by_run(run_id)
        if run is None:
            return
        for command in self._stopping.pop(run_id, ()):
            command.answer(standing(run.job, stopping=run.job.state is State.RUNNING))

    def _conclude(self, turn: Turn) -> None:
        """Attempts are over: verbs that waited for their stop hear whether it worked."""
        for transition in turn.transitions if self._stopping else ():
            attempt = transition.attempt
            if attempt is not None and attempt.outcome is not None:
                for command in self._stopping.pop(attempt.run_id, ()):
                    command.conclude(transition.job, stopped=attempt.outcome.stopped)
