"""The queues, rates and hooks that the settings file declares.

Owns the way of queues and rates into the database at a start and at a reload, and names hooks that are of no use.
"""

from __future__ import annotations

from collections.abc import Sequence

from stoker.config import Config
from stoker.core import hooks as rules
from stoker.core.hooks import Hook
from stoker.core.job.model import STOKER, Queue
from stoker.engine.hooks import ensure_queue
from stoker.engine.settings import set_queue, set_rate
from stoker.engine.turn import Turn
from stoker.service.preflight import Preflight
from stoker.store.hooks import known_names
from stoker.store.reader import Reader
from stoker.telemetry.events import LogEvent
from stoker.telemetry.logs import log


def declare(config: Config, turn: Turn) -> None:
    """Store the queues and rates that differ from the database. Those that the file no longer names stay."""
    if config.hooks:
        ensure_queue(turn)
    for name, section in config.queues.items():
        before = turn.memory.queues.get(name)
        queue = section.over(before or Queue(name=name))
        if queue != before:
            set_queue(turn, queue, "configured", STOKER)
    for key, of_key in config.rates.items():
        rate = of_key.rate_of_key()
        if rate != turn.memory.rates.of_keys.get(key):
            set_rate(turn, key, rate, "configured", STOKER)


async def unmatched(queries: Reader, hooks: Sequence[Hook]) -> dict[str, str]:
    """By name, the hooks whose filters let nothing pass now, and why."""
    names = await queries.run(known_names, {hook.workflow for hook in hooks if hook.workflow is not None})
    reasons = {hook.name: rules.unmatched(hook, names.queues, names.workflows) for hook in hooks}
    return {name: reason for name, reason in reasons.items() if reason is not None}


async def log_hook_problems(hooks: Sequence[Hook], preflight: Preflight, queries: Reader) -> None:
    """Name the hooks whose jobs would fail, and those that would never have one."""
    for name, why in (await unmatched(queries, hooks)).items():
        log(LogEvent.HOOK_UNMATCHED, hook=name, why=why)
    for hook, problem in zip(hooks, await preflight.problems([hook.work for hook in hooks]), strict=True):
        if problem is not None:
            log(LogEvent.HOOK_UNUSABLE, hook=hook.name, error=problem)
