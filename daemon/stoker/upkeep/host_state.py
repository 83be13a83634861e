"""Watches whether the host is idle and charging, and posts each change to the loop.

Owns the measurements, the connection to logind, and the jobs that only wait for a time while the host meets their
conditions. `core.host_state` judges. The load and the battery are polled, as the kernel reports changes of neither.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from stoker.background.tasks import BackgroundTasks
from stoker.config import Config
from stoker.core.clock import Clock, Now
from stoker.core.host_state import (
    NOT_ASKED,
    Idleness,
    InputState,
    Power,
    forgotten,
    idle_words,
    observe_idle,
    observe_power,
    power_words,
)
from stoker.core.job.conditions import ConditionKind
from stoker.core.throttle import Gauge
from stoker.engine.conditions import AskLater, HostChanged, HostHolds, HostHoldsFor, now_met
from stoker.engine.inbox import Inbox
from stoker.engine.memory import LiveState
from stoker.engine.turn import Turn
from stoker.host.logind import Logind
from stoker.host.power import read_battery
from stoker.telemetry.events import LogEvent
from stoker.telemetry.logs import log
from stoker.upkeep.throttle import Throttle

if TYPE_CHECKING:
    from stoker.core.host_views import HostView

POWER_EVERY_MS = 5_000  # while a job waits for it
POWER_SELDOM_MS = 60_000
INPUT_EVERY_MS = 30_000  # logind sends no notices about terminals
RECONNECT_S = 30.0
FOLLOWING = "sessions of the host"
BATTERY = "look at the battery"
GAP_MS = 5_000  # the host slept, or the daemon was stopped
JUMP_MS = 1_000  # of the wall clock


class HostState:
    def __init__(
        self,
        config: Config,
        clock: Clock,
        memory: LiveState,
        inbox: Inbox,
        throttle: Throttle,
        background: BackgroundTasks,
    ) -> None:
        self._clock = clock
        self._memory = memory
        self._inbox = inbox
        self._throttle = throttle
        self._background = background
        self._logind = Logind(self._input_heard)
        self._input = NOT_ASKED
        self._idleness = Idleness()
        self._power = Power()
        self._posted: frozenset[str] = frozenset()
        self._delayed: dict[int, int] = {}  # jobs that only wait for a time, until when (steady)
        self._at = clock.now()
        self._power_at = self._input_at = 0
        self.use(config)

    def use(self, config: Config) -> None:
        self._policy = config.idle_policy()
        self._gap_ms = GAP_MS + config.cpu.sample_ms

    def begin(self) -> None:
        self._begin_battery_reading(self._clock.now())

    def tick(self) -> None:
        now, before = self._clock.now(), self._at
        self._at = now
        if now.steady - before.steady > self._gap_ms:
            self._idleness = forgotten(self._idleness)
        if self._policy.input:
            self._check_input(now)
        every = POWER_EVERY_MS if self._memory.awaited[ConditionKind.CHARGING] else POWER_SELDOM_MS
        if now.steady >= self._power_at + every:
            self._begin_battery_reading(now)
        cpu = self._throttle.pressure.level(Gauge.CPU)
        self._idleness = observe_idle(self._policy, self._idleness, cpu, self._input, now.steady)
        self._post_changes()
        self._ask_again(now, before)

    def _post_changes(self) -> None:
        facts = {ConditionKind.IDLE: self._idleness.holds, ConditionKind.CHARGING: self._power.holds}
        holding = frozenset(kind.value for kind, holds in facts.items() if holds)
        if holding != self._posted:
            self._posted = holding
            log(LogEvent.HOST_STATE_CHANGED, **{kind.value: holds for kind, holds in facts.items()})
            self._inbox.post(HostChanged(holding))

    # --- jobs ---

    def after_commit(self, turn: Turn) -> None:
        """Post the jobs that changed while the host meets their conditions, and note those that wait for a time."""
        for effect in turn.effects:
            if isinstance(effect, AskLater):
                self._delayed[effect.job_id] = effect.at
        met = now_met(turn) if turn.awaiting and self._memory.holding else ()
        if met:
            self._inbox.post(HostHoldsFor(met))

    def _ask_again(self, now: Now, before: Now) -> None:
        due = [job_id for job_id, at in self._delayed.items() if at <= now.steady]
        for job_id in due:
            del self._delayed[job_id]
        if due:
            self._inbox.post(HostHoldsFor(due))
        if abs((now.wall - before.wall) - (now.steady - before.steady)) > JUMP_MS:  # any `run_at` may have come
            for condition in sorted(self._posted):
                self._inbox.post(HostHolds(condition))

    # --- the host ---

    def _begin_battery_reading(self, now: Now) -> None:
        if not self._background.is_running(BATTERY):
            self._power_at = now.steady
            self._background.start(BATTERY, self._read_battery())

    async def _read_battery(self) -> None:
        """In a thread, as some batteries answer slowly. Until one can be read, the power counts as it was."""
        with contextlib.suppress(OSError):
            self._power = observe_power(self._power, await asyncio.to_thread(read_battery))
        self._post_changes()

    def _check_input(self, now: Now) -> None:
        """Connect when the first job waits for idle, as most hosts never have such a job. The connection stays."""
        if self._logind.connected and now.steady >= self._input_at + INPUT_EVERY_MS:
            self._input_at = now.steady
            self._background.start("question to logind", self._logind.ask())
        elif self._memory.awaited[ConditionKind.IDLE] and not self._background.is_running(FOLLOWING):
            self._background.start(FOLLOWING, self._follow_input())

    async def _follow_input(self) -> None:
        """Without logind, CPU alone decides; while a job waits, it is tried again."""
        self._input = InputState(None, await self._logind.follow())
        await asyncio.sleep(RECONNECT_S)

    def _input_heard(self, state: InputState) -> None:
        """The end of the calm counts at once; its begin is found by the next tick."""
        self._input = state
        if state.idle is False and self._policy.input and self._idleness.holds:
            self._idleness = forgotten(self._idleness)
            self._post_changes()

    # --- what people see ---

    def words(self, condition: str) -> str:
        """The present state of a condition, in words."""
        if condition == ConditionKind.CHARGING:
            return power_words(self._power)
        return idle_words(self._policy, self._idleness, self._clock.now().steady)

    def view(self) -> HostView:
        return {
            "idle": {"holds": self._idleness.holds, "words": self.words(ConditionKind.IDLE)},
            "charging": {"holds": self._power.holds, "words": self.words(ConditionKind.CHARGING)},
        }
