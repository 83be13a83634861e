"""The rows of the table of methods for the limits of users.

Owns their handlers, by the same rules as methods.py.
"""

from __future__ import annotations

from typing import Any

from stoker.rpc.schema import NoParams
from stoker.rpc.table import Method, MethodKind

QUOTA_METHODS: dict[str, Method[Any]] = {
    "system.limits": Method(NoParams, lambda service, peer, _: service.users.limits(peer.viewer), MethodKind.READ),
    "system.users": Method(NoParams, lambda service, _peer, _: service.users.users(), MethodKind.READ),
}
