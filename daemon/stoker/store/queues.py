"""Rows of `queues`, `resources` and `meta`.

These are the small tables that seldom change.
"""

from __future__ import annotations

import sqlite3
from typing import Any

import msgspec
from msgspec import convert
from msgspec.json import decode

from stoker.core.job.model import Queue, Resource
from stoker.store.rates import column, of_column
from stoker.store.strict import strict

UPSERT_QUEUE = """
INSERT INTO queues (name, class, max_running, min_running, max_queued, rate, paused, defaults)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (name) DO UPDATE SET class = excluded.class, max_running = excluded.max_running,
    min_running = excluded.min_running, max_queued = excluded.max_queued, rate = excluded.rate,
    paused = excluded.paused, defaults = excluded.defaults
"""
# In the order of ALL_QUEUES; the column `class` has another name than its field.
_FIELDS = ("name", "queue_class", "max_running", "min_running", "max_queued", "rate", "paused", "defaults")
ALL_QUEUES = (
    "SELECT name, class, max_running, min_running, max_queued, rate, paused, defaults FROM queues ORDER BY name"
)
UPSERT_RESOURCE = """
INSERT INTO resources (name, capacity) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET capacity = excluded.capacity
"""
ALL_RESOURCES = "SELECT name, capacity FROM resources ORDER BY name"
SET_META = "INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value"
ALL_META = "SELECT key, value FROM meta"


def queue_row(queue: Queue) -> tuple[Any, ...]:
    defaults = msgspec.json.encode(queue.defaults).decode()
    bounds = (queue.max_running, queue.min_running, queue.max_queued)
    rate = None if queue.rate is None else column(queue.rate)
    return (queue.name, queue.queue_class.value, *bounds, rate, queue.paused, defaults)


def resource_row(resource: Resource) -> tuple[Any, ...]:
    return (resource.name, resource.capacity)


@strict("queues")
def queues(connection: sqlite3.Connection) -> dict[str, Queue]:
    values = (dict(zip(_FIELDS, row, strict=True)) for row in connection.execute(ALL_QUEUES))
    result = (
        convert(each | {"rate": of_column(each["rate"]), "defaults": decode(each["defaults"])}, Queue, strict=False)
        for each in values
    )
    return {queue.name: queue for queue in result}


@strict("resources")
def resources(connection: sqlite3.Connection) -> dict[str, Resource]:
    rows = connection.execute(ALL_RESOURCES)
    return {name: convert({"name": name, "capacity": capacity}, Resource) for name, capacity in rows}


def meta(connection: sqlite3.Connection) -> dict[str, Any]:
    return dict(connection.execute(ALL_META))
