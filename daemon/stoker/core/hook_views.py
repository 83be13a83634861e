"""Hooks as clients see them, for type checkers and editors.

Owns the answers of the methods `hook.*` as TypedDicts; see `core.views`.
"""

from __future__ import annotations

from typing import TypedDict


class HookRunView(TypedDict):
    """A job of a hook. `change`: the number of the change that it is for; None for a test."""

    job: int
    change: int | None
    state: str
    reason: str | None
    submitted_at: int
    finished_at: int | None


class HookView(TypedDict):
    """`problem`: why its command cannot be executed now; `unmatched`: why its filters let nothing pass now.

    `last`: its newest job.

    `refused`: the changes since the start of the daemon for which no job could be submitted.
    """

    name: str
    on: list[str]
    queue: str | None
    workflow: str | None
    labels: dict[str, str]
    command: str
    args: list[str]
    working_dir: str
    problem: str | None
    unmatched: str | None
    refused: int
    last: HookRunView | None


class HookDetails(HookView):
    """`runs`: its newest jobs, newest first."""

    runs: list[HookRunView]


class HookList(TypedDict):
    hooks: list[HookView]


class HookTestAnswer(TypedDict):
    name: str
    on: str
    job: int
