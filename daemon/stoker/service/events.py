"""The methods of the protocol for named events, as plain calls.

Owns the view of an event. Users see their own events, root those of all users.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from stoker.core.access import Viewer
from stoker.core.named_events import KEPT_OF_A_USER, EmitParams, EventListParams, NamedEvent
from stoker.engine.named_events import Emission
from stoker.service.engine import Engine
from stoker.store import conditions

if TYPE_CHECKING:
    from stoker.core.event_views import EventPage, EventView
    from stoker.core.views import EmitAnswer


class EventService:
    """Named events, as the handlers of rpc/event_methods.py call them."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def emit(self, sent: EmitParams, peer_uid: int) -> asyncio.Future[EmitAnswer]:
        return self._engine.request(Emission(sent, peer_uid))

    async def list(self, sent: EventListParams, viewer: Viewer) -> EventPage:
        """A page of events, newest first."""
        rows = await self._engine.queries.run(conditions.page, viewer.owns or 0, sent.name, sent.before, sent.limit)
        now = self._engine.clock.now().wall
        events = [_view(event, size, now) for event, size in rows]
        return {
            "events": events,
            "next": events[-1]["id"] if len(events) == sent.limit else None,
            "kept": await self._engine.queries.run(conditions.count_kept_of_owner, viewer.uid, now),
            "most_kept": KEPT_OF_A_USER,
        }


def _view(event: NamedEvent, size: int, now: int) -> EventView:
    return {
        "id": event.id,
        "name": event.name,
        "owner_uid": event.owner_uid,
        "emitted_at": event.emitted_at,
        "one": event.one,
        "keep_until": event.keep_until,
        "kept": event.kept(now),
        "reached": event.reached,
        "bytes": size,
    }
