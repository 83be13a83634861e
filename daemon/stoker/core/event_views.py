"""The views of named events, as `event.list` answers with them.

Owns the types for the client and the service, beside those of jobs and workflows in `core/views.py`. No module imports
this one at run time.
"""

from __future__ import annotations

from typing import TypedDict


class EventView(TypedDict):
    """An event without its data; `bytes` is the size of these. `kept`: it still reaches jobs that are submitted."""

    id: int
    name: str
    owner_uid: int
    emitted_at: int
    one: bool
    keep_until: int
    kept: bool
    reached: int
    bytes: int


class EventPage(TypedDict):
    """Newest first; `next` is the `before` of the following page.

    `kept`: how many events of this user reach later jobs, of `most_kept` at most.
    """

    events: list[EventView]
    next: int | None
    kept: int
    most_kept: int
