"""The rows of the table of methods for named events.

Owns their handlers, by the same rules as methods.py.
"""

from __future__ import annotations

from typing import Any

from stoker.core.named_events import EmitParams, EventListParams
from stoker.rpc.table import Method, MethodKind

EVENT_METHODS: dict[str, Method[Any]] = {
    "event.emit": Method(EmitParams, lambda service, peer, sent: service.events.emit(sent, peer.uid)),
    "event.list": Method(
        EventListParams, lambda service, peer, sent: service.events.list(sent, peer.viewer), MethodKind.READ
    ),
}
