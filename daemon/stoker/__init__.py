"""Stoker: a durable job daemon for one Linux host.

Owns the public names of the package: `Client`, `checkpoint` (for programs that run as jobs), `handler`, `Call`,
`Transient` and `strategy` (for modules that the daemon loads) and `__version__`. Each is imported when it is first
used, because `stoker submit` in a shell loop pays for every import.
"""

from __future__ import annotations

__version__ = "0.1.0"
__all__ = ["Call", "Client", "Transient", "__version__", "checkpoint", "handler", "strategy"]

TYPE_CHECKING = False  # `typing` alone would be a tenth of the time of `stoker submit`
if TYPE_CHECKING:
    from stoker import checkpoint
    from stoker.core.workflow.strategies import strategy
    from stoker.executors.handlers import Call, Transient, handler
    from stoker.rpc.client import Client

_MODULES = {
    "Call": "stoker.executors.handlers",
    "Client": "stoker.rpc.client",
    "Transient": "stoker.executors.handlers",
    "handler": "stoker.executors.handlers",
    "strategy": "stoker.core.workflow.strategies",
}


def __getattr__(name: str) -> object:
    import importlib  # noqa: PLC0415 - loaded when a name is first asked for

    if name == "checkpoint":
        return importlib.import_module("stoker.checkpoint")
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
