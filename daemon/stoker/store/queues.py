"""Rows of `queues`, `resources` and `meta`.

These are the small tables that seldom change.
"""

from __future__ import annotations

import sqlite3
from typing import Any

import msgspec

from stoker.core.job.model import Queue, QueueClass, Resource

UPSERT_QUEUE = """
INSERT INTO queues (name, class, max_running, min_running, max_queued, paused, defaults) VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (name) DO UPDATE SET class = excluded.class, max_running = excluded.max_running,
    min_running = excluded.min_running, max_queued = excluded.max_queued, paused = excluded.paused,
    defaults = excluded.defaults
"""
ALL_QUEUES = "SELECT name, class, max_running, min_running, max_queued, paused, defaults FROM queues ORDER BY name"
UPSERT_RESOURCE = """
INSERT INTO resources (name, capacity) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET capacity = excluded.capacity
"""
ALL_RESOURCES = "SELECT name, capacity FROM resources ORDER BY name"
SET_META = "INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value"
ALL_META = "SELECT key, value FROM meta"


def queue_row(queue: Queue) -> tuple[Any, ...]:
    defaults = msgspec.json.encode(queue.defaults).decode()
    bounds = (queue.max_running, queue.min_running, queue.max_queued)
    return (queue.name, queue.queue_class.value, *bounds, queue.paused, defaults)


def resource_row(resource: Resource) -> tuple[Any, ...]:
    return (resource.name, resource.capacity)


def queues(connection: sqlite3.Connection) -> dict[str, Queue]:
    return {
        name: Queue(
            name=name,
            queue_class=QueueClass(queue_class),
            max_running=max_running,
            min_running=min_running,
            max_queued=max_queued,
            paused=bool(paused),
            defaults=msgspec.json.decode(defaults),
        )
        for name, queue_class, max_running, min_running, max_queued, paused, defaults in connection.execute(ALL_QUEUES)
    }


def resources(connection: sqlite3.Connection) -> dict[str, Resource]:
    return {name: Resource(name=name, capacity=capacity) for name, capacity in connection.execute(ALL_RESOURCES)}


def meta(connection: sqlite3.Connection) -> dict[str, Any]:
    return dict(connection.execute(ALL_META))
