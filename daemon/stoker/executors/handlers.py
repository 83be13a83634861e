"""In-process handlers by name: ours, and those that Python modules register with `stoker.handler`.

Owns the registry, the argument of a handler and the error for another try. The modules named in `[daemon] handlers`
register theirs when they are imported; `in_process.py` runs them. Invariant: a name is registered once.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from msgspec import Struct, field

from stoker.core.errors import ConfigInvalid


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
HANDLERS: dict[str, Handler] = {}


def handler(name: str) -> Callable[[Handler], Handler]:
    """Register an async function as the in-process command `name`.

    It runs on the event loop of the daemon: it awaits whatever takes longer than a few milliseconds. It must be safe
    to run twice, because a crash of the daemon ends it and its job is queued again. Whatever it raises fails its job
    for good, except `Transient`. Raises ValueError if the name is taken or begins with `stoker.`, TypeError if the
    function is not async.
    """

    def register(function: Handler) -> Handler:
        if name.startswith(OWN_PREFIX):
            raise ValueError(f"the in-process handler {name!r}: names that begin with {OWN_PREFIX!r} are Stoker's own")
        if name in HANDLERS:
            raise ValueError(f"two in-process handlers are called {name!r}")
        if not inspect.iscoroutinefunction(function):
            raise TypeError(f"the in-process handler {name!r} is not an async function (write `async def`)")
        HANDLERS[name] = function
        return function

    return register


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
