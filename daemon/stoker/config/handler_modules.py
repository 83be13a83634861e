"""The modules of `[daemon] handlers`, looked at without a daemon and without running any code of theirs.

Owns the mistakes that a look can find: a module that is not there, or that has a syntax error.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from importlib.abc import InspectLoader
from importlib.machinery import ModuleSpec


def wrong_modules(modules: Iterable[str]) -> Iterator[str]:
    """A mistake for each module that the daemon could not import. Its PYTHONPATH may be another one."""
    for module in modules:
        if why := _why_not(module):
            yield f"[daemon] handlers: {module}: {why}"


def _why_not(module: str) -> str | None:
    """Follows the names by itself, as `importlib.util.find_spec` imports the packages around a module."""
    spec, places = None, None
    parts = module.split(".")
    for depth in range(1, len(parts) + 1):
        name = ".".join(parts[:depth])
        if spec is not None and places is None:
            return f"{spec.name} is no package"
        spec = _found(name, places)
        if spec is None:
            return f"there is no module {name} here; is the PYTHONPATH that of the daemon?"
        places = spec.submodule_search_locations
    return None if spec is None else _syntax_error(spec)


def _found(name: str, places: Iterable[str] | None) -> ModuleSpec | None:
    within = None if places is None else [*places]
    found = (finder.find_spec(name, within) for finder in sys.meta_path)
    return next((spec for spec in found if spec is not None), None)


def _syntax_error(spec: ModuleSpec) -> str | None:
    source = spec.loader.get_source(spec.name) if isinstance(spec.loader, InspectLoader) else None
    try:
        compile(source or "", spec.origin or spec.name, "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return None
