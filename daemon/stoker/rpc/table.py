"""The shape of a row in the table of methods, and what an answer may be beside a plain value.

Owns the words of the table (`methods.METHODS`): role, kind, handler. Refuses to know any method.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from msgspec import Struct

from stoker.core.requests import Params

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncGenerator

Reply = dict[str, Any]
P = TypeVar("P", bound=Params)


class Peer(NamedTuple):
    """Who is at the other end (SO_PEERCRED), and over which connection, by a number that is used once."""

    uid: int
    gid: int
    pid: int
    connection: int = 0


class Role(StrEnum):
    OWNER = "owner"
    OPERATOR = "operator"
    ADMIN = "admin"


class MethodKind(StrEnum):
    """How long an answer may take, and how large it may be. All but a call end with their client.

    A read only looks, and its answer may be large: a connection gets one at a time. A wait says `ids`.
    """

    CALL = "call"
    READ = "read"
    WAIT = "wait"
    STREAM = "stream"


class Later(NamedTuple):
    """A future of the engine, and what makes a result of what it gives."""

    future: asyncio.Future[Any]
    render: Callable[[Any], object]


class Stream(NamedTuple):
    """An answer that is followed by notifications; the connection adds the stream's number to each."""

    answer: Reply
    notifications: AsyncGenerator[Reply, None]


class Method(Struct, Generic[P], frozen=True):
    """One row of the table; the handler gets the service, the peer and what was sent.

    `reader` reads the parts of the parameters that have errors of their own (the jobs of a batch, a flow): the handler
    gets what it returns. It knows no service, so that a long request can be read in a thread.
    """

    params: type[P]
    role: Role
    handler: Callable[[Any, Peer, Any], object]
    kind: MethodKind = MethodKind.CALL
    brings_work: bool = False
    reader: Callable[[P], object] | None = None

    @property
    def lasts(self) -> bool:
        """Whether it needs an ordinary connection: the reserve is for what is short, and not for new work."""
        return self.brings_work or self.kind in (MethodKind.WAIT, MethodKind.STREAM)
