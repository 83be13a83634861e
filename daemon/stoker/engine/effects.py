"""Carries out the effects of a turn once it is on disk, then answers clients and announces the changes.

Owns the order of what follows a commit, from the launch of an attempt to its end, and the requests that wait to learn
whether their stop came in time. Nothing is decided here: all of it follows from committed steps.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from stoker.core.clock import wall_ms
from stoker.core.job import events as ev
from stoker.core.job.model import ExecutionMode
from stoker.engine.attempt_inputs import AttemptInputs
from stoker.engine.commands import AnswerStop, PendingStops
from stoker.engine.deadlines import Deadlines
from stoker.engine.dependents import Dependents, where_to_go_on
from stoker.engine.inbox import AnswerRequest, Inbox
from stoker.engine.log_events import announce, announce_settings
from stoker.engine.memory import LiveState
from stoker.engine.subscriptions import Subscriptions
from stoker.engine.turn import (
    AcknowledgeUnknown,
    DueRead,
    LogLine,
    StopDelivered,
    Transition,
    Turn,
    Warn,
    Watch,
)
from stoker.executors.base import Executor, Start
from stoker.executors.local import LocalExecutor
from stoker.process.work_files import WorkFiles
from stoker.telemetry.logs import log
from stoker.telemetry.otel import Telemetry

ANNOUNCED_AT_ONCE = 512


class Effects:
    def __init__(
        self,
        memory: LiveState,
        executors: Mapping[ExecutionMode, Executor],
        local: LocalExecutor,
        work_files: WorkFiles,
        attempt_inputs: AttemptInputs,
        deadlines: Deadlines,
        subscriptions: Subscriptions,
        telemetry: Telemetry,
        inbox: Inbox,
    ) -> None:
        self._memory = memory
        self._executors = executors
        self._local = local
        self._work_files = work_files
        self._attempt_inputs = attempt_inputs
        self._deadlines = deadlines
        self._subscriptions = subscriptions
        self._telemetry = telemetry
        self._inbox = inbox
        self._stops = PendingStops(memory)
        self._loop = asyncio.get_running_loop()

    def after_commit(self, turn: Turn) -> None:
        """The life of an attempt, for all attempts of the turn at once: each line is one moment of it, in order."""
        effects: defaultdict[type[ev.Effect], list[Any]] = defaultdict(list)
        for effect in turn.effects:
            effects[type(effect)].append(effect)
        self._launch(effects[ev.Launch], turn)  # its row is on disk: its inputs are written, and its worker starts
        self._watch(effects[Watch])  # it runs: its limits and its heartbeats are watched
        self._warn(effects[Warn])  # a limit is near
        self._stops.add(effects[AnswerStop])  # a person stops it: the answer says whether the stop came in time
        self._stop(effects[ev.Stop])  # its process tree gets its signals, one after the other
        self._reassign(effects[ev.Reassign])  # its launcher is silent: the daemon itself signals its processes
        self._stops.answer(effect.run_id for effect in effects[StopDelivered])  # the first signal came before its end
        self._settle(effects[ev.Settled], turn)  # it has ended: acknowledged, its files and alarms are removed
        self._acknowledge_unknown(effects[AcknowledgeUnknown])  # outcomes without an open attempt are recorded
        self._release_dependents(effects[ev.ReleaseDependents])  # jobs that need it are queued or skipped
        self._deadlines.schedule(effects[DueRead], turn)  # its job waits for a retry
        self._announce_turn(effects[AnswerRequest], effects[LogLine], turn)  # clients, followers and the log

    # --- from the launch to the end ---

    def _launch(self, launches: Sequence[ev.Launch], turn: Turn) -> None:
        runs = [self._memory.by_run(launch.attempt.run_id) for launch in launches]
        self._attempt_inputs.start([Start(run.job, run.attempt) for run in runs if run is not None], turn.ends)

    def _watch(self, began: Sequence[Watch]) -> None:
        for effect in began:
            run = self._memory.by_run(effect.run_id)
            if run is not None:
                self._deadlines.watch(run.job, run.attempt, effect.started)

    def _warn(self, warnings: Sequence[Warn]) -> None:
        for warning in warnings:
            run = self._memory.by_run(warning.run_id)
            if run is not None:
                self._executors[run.job.spec.execution_mode].signal(warning.run_id, warning.signum)

    def _stop(self, stops: Sequence[ev.Stop]) -> None:
        for stop in stops:
            run = self._memory.by_run(stop.run_id)
            if run is not None:
                self._executors[run.job.spec.execution_mode].stop(stop.run_id, stop.grace_ms)
            self._stops.sent(stop.run_id)

    def _reassign(self, reassigned: Sequence[ev.Reassign]) -> None:
        for effect in reassigned:
            run = self._memory.by_run(effect.run_id)
            if run is not None:
                self._executors[run.job.spec.execution_mode].reassign(effect.run_id, run.attempt.identity)

    def _settle(self, settled: Sequence[ev.Settled], turn: Turn) -> None:
        run_ids = [effect.run_id for effect in settled]
        if run_ids:
            for executor in self._executors.values():
                executor.acknowledge(run_ids)
            self._work_files.remove(run_ids)
            self._deadlines.forget(run_ids)
            self._stops.conclude(turn.transitions)

    def _acknowledge_unknown(self, recorded: Sequence[AcknowledgeUnknown]) -> None:
        if recorded:
            run_ids = [effect.run_id for effect in recorded]
            self._local.acknowledge_unknown(run_ids)
            self._executors[ExecutionMode.CLUSTER].acknowledge(run_ids)

    def _release_dependents(self, ended: Sequence[ev.ReleaseDependents]) -> None:
        needed = where_to_go_on(effect for effect in ended if effect.job_id in self._memory.needed)
        if needed:
            self._inbox.post(Dependents(needed))

    # --- clients, followers and the log ---

    def _announce_turn(self, answers: Sequence[AnswerRequest[Any]], lines: Sequence[LogLine], turn: Turn) -> None:
        for answer in answers:
            answer.request.answer(answer.result)
        self._subscriptions.announce(turn.transitions, turn.batch.changes, self._memory.last_seq)
        if turn.transitions:
            # Launches and answers are written in the next round of the event loop: they go before the log.
            self._loop.call_soon(self._announce, turn.transitions, wall_ms())
        for line in lines:
            log(line.event, **line.fields)
        announce_settings(turn.settings_changed)

    def _announce(self, transitions: Sequence[Transition], committed_at: int) -> None:
        """In pieces: each transition is a line of the log."""
        announce(transitions[:ANNOUNCED_AT_ONCE], self._telemetry, committed_at)
        rest = transitions[ANNOUNCED_AT_ONCE:]
        if rest:
            self._loop.call_soon(self._announce, rest, committed_at)
