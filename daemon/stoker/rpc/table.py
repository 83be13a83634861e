"""A row of the table of methods, and the kinds of answer that a handler may return.

Owns `Method`, `Later` and `Stream`. The rows themselves stand in methods.py and workflow_methods.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from enum import StrEnum
from typing import Any, Generic, NamedTuple, TypeVar

from stoker.core.requests import Params
from stoker.rpc.peer import Peer
from stoker.service.service import Service

Reply = dict[str, Any]
P = TypeVar("P", bound=Params)


class MethodKind(StrEnum):
    """The cost of an answer for the daemon. A READ, a WAIT and a STREAM are cancelled when their client hangs up.

    A CALL waits for a turn of the engine; a DIRECT one does not, so it is not counted among the open calls. A READ
    changes nothing and may have a large answer: a connection gets one at a time. The parameters of a WAIT say how much
    is `awaited`.
    """

    CALL = "call"
    DIRECT = "direct"
    READ = "read"
    WAIT = "wait"
    STREAM = "stream"


class Later(NamedTuple):
    """A future of the engine, and the function that renders its result."""

    future: asyncio.Future[Any]
    render: Callable[[Any], object]


class Stream(NamedTuple):
    """An answer that is followed by notifications; the connection adds the stream's number to each."""

    answer: Reply
    notifications: AsyncGenerator[Reply, None]


class Method(NamedTuple, Generic[P]):
    """One row: the handler gets the service, the peer and the parameters.

    `reader` reads parts of the parameters that have errors of their own (the jobs of a batch, a flow); the handler then
    gets its result. A reader uses no service, so that a long request can be read in a thread.
    """

    params: type[P]
    handler: Callable[[Service, Peer, Any], object]
    kind: MethodKind = MethodKind.CALL
    brings_work: bool = False
    reader: Callable[[P], object] | None = None

    @property
    def lasts(self) -> bool:
        """Whether it needs an ordinary connection: the reserve is kept for short requests that bring no new work."""
        return self.brings_work or self.kind in (MethodKind.WAIT, MethodKind.STREAM)
