"""In-process handlers by name: ours, and those that Python modules register with `stoker.handler`.

Owns the registry with the role that each handler asks for, the argument of a handler, and the error for another try.
The modules named in `[daemon] handlers` register theirs when they are imported; `in_process.py` runs them. Invariants:
a name is registered once; a handler is for admins unless its module names a lower role, because it runs with all rights
of the daemon.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple

from msgspec import Struct, field

from stoker.core.access import Role
from stoker.core.errors import ConfigInvalid, HandlerNotFound, PermissionDenied, StokerError
from stoker.core.raw_bytes import AnyText


class Call(Struct, frozen=True):
    """The argument of a handler: the arguments of the job, the run, and the named events that the job got.

    `events`: by name, as in STOKER_EVENT_FILE: `id`, `emitted_at` (UTC milliseconds), `owner_uid` and `data`.
    """

    job_id: int
    run_id: str
    args: tuple[str, ...]
    events: Mapping[str, Any] = field(default_factory=dict)


class Transient(Exception):
    """Raise it in a handler to say that another try may succeed; the retry policy of the job decides when."""

    __module__ = "stoker"  # its public name, which a traceback shows


OWN_PREFIX = "stoker."  # of the handlers of Stoker itself
Handler = Callable[[Call], Awaitable[None]]


class Registered(NamedTuple):
    """`role`: the least that may submit jobs for it."""

    run: Handler
    role: Role = Role.ADMIN


HANDLERS: dict[str, Registered] = {}
ROLES = {role.word: role for role in Role}


def handler(name: str, *, role: str = Role.ADMIN.word) -> Callable[[Handler], Handler]:
    """Register an async function as the in-process command `name`.

    `role`: the least that may submit jobs for it, "submitter", "operator" or "admin" (docs/access.md).

    It runs on the event loop of the daemon: it awaits whatever takes longer than a few milliseconds. It must be safe
    to run twice, because a crash of the daemon ends it and its job is queued again. Whatever it raises fails its job
    for good, except `Transient`. Raises ValueError if the name is taken or begins with `stoker.` or there is no such
    role, TypeError if the function is not async.
    """

    def register(function: Handler) -> Handler:
        if name.startswith(OWN_PREFIX):
            raise ValueError(f"the in-process handler {name!r}: names that begin with {OWN_PREFIX!r} are Stoker's own")
        if name in HANDLERS:
            raise ValueError(f"two in-process handlers are called {name!r}")
        if role not in ROLES:
            raise ValueError(f"the in-process handler {name!r}: role={role!r} is none of {', '.join(ROLES)}")
        if not inspect.iscoroutinefunction(function):
            raise TypeError(f"the in-process handler {name!r} is not an async function (write `async def`)")
        HANDLERS[name] = Registered(function, ROLES[role])
        return function

    return register


def refusal(command: AnyText, role: Role) -> StokerError | None:
    """Why a user of this role cannot have a job for this handler; None if it can."""
    found = HANDLERS.get(command) if isinstance(command, str) else None
    if found is None:
        names = ", ".join(sorted(name for name, each in HANDLERS.items() if role >= each.role)) or "none"
        message = f"command: no in-process handler is called {command!r} (there are: {names})"
        return HandlerNotFound(message, path="command")
    if role >= found.role:
        return None
    message = f"command: the in-process handler {command!r} is for {found.role.word}s, and your role is {role.word}"
    return PermissionDenied(message, path="command", hint=f"ask an {found.role.word}, or submit a program instead")


def load_handlers(modules: Sequence[str]) -> None:
    """Import the modules of `[daemon] handlers`. Raises ConfigInvalid naming all that fail."""
    errors = []
    for module in modules:
        try:
            importlib.import_module(module)
        except Exception as error:  # noqa: BLE001 - a service boundary: the module is the user's
            errors.append(f"daemon.handlers: {module}: {type(error).__name__}: {error}")
    if errors:
        what = errors[0] if len(errors) == 1 else f"daemon.handlers: {len(errors)} modules cannot be imported"
        raise ConfigInvalid(what, errors=errors)
