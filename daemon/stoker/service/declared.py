"""The queues and rates that the settings file declares, and the queue of its hooks.

Owns their way into the database at a start and at a reload.
"""

from __future__ import annotations

from stoker.config import Config
from stoker.core.job.model import STOKER, Queue
from stoker.engine.hooks import ensure_queue
from stoker.engine.turn import Turn


def declare(config: Config, turn: Turn) -> None:
    """Store the queues and rates that differ from the database. Those that the file no longer names stay."""
    if config.hooks:
        ensure_queue(turn)
    for name, section in config.queues.items():
        before = turn.memory.queues.get(name)
        queue = section.over(before or Queue(name=name))
        if queue != before:
            turn.set_queue(queue, "configured", STOKER)
    for key, of_key in config.rates.items():
        rate = of_key.rate_of_key()
        if rate != turn.memory.rates.of_keys.get(key):
            turn.set_rate(key, rate, "configured", STOKER)
