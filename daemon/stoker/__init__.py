"""Stoker: a durable job daemon for one Linux host.

Owns the public names of the package: `Client`, `checkpoint` (for programs that run as jobs), `strategy` (for modules
that the daemon loads) and `__version__`. Refuses to import anything before it is asked for: `stoker submit` in a shell
loop pays for every module here.
"""

from __future__ import annotations

__version__ = "0.1.0"
__all__ = ["Client", "__version__", "checkpoint", "strategy"]

TYPE_CHECKING = False  # `typing` alone would be a tenth of the time of `stoker submit`
if TYPE_CHECKING:
    from stoker import checkpoint
    from stoker.core.workflow.strategies import strategy
    from stoker.rpc.client import Client


def __getattr__(name: str) -> object:
    if name == "Client":
        from stoker.rpc.client import Client  # noqa: PLC0415 - loaded when it is first asked for

        return Client
    if name == "checkpoint":
        import stoker.checkpoint as loaded  # noqa: PLC0415 - `from stoker import checkpoint` would ask here again

        return loaded
    if name == "strategy":
        from stoker.core.workflow.strategies import strategy  # noqa: PLC0415 - as above

        return strategy
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
