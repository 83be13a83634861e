"""The types of answers can be read: each name in an annotation stands for a type.

Owns that every module of the core is imported here. `tests/rpc/test_views.py` compares the types with real answers.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING, Any, get_type_hints, is_typeddict

import pytest

from stoker import core

if TYPE_CHECKING:
    from collections.abc import Iterator


def declared() -> Iterator[Any]:
    for module in pkgutil.walk_packages(core.__path__, "stoker.core."):
        names = vars(importlib.import_module(module.name))
        yield from (kind for kind in names.values() if is_typeddict(kind) and kind.__module__ == module.name)


VIEWS = list(declared())


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.__name__)
def test_view_when_its_annotations_are_read_then_each_field_has_a_type(view: Any) -> None:
    assert set(get_type_hints(view)) == set(view.__annotations__)
