"""The program on a node starts once for each job: it has JSON and signals without packages that are slow to load."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.launcher.lean_json import json_of, read_json
from stoker.launcher.lean_stdlib import suppress

SLOW = {"collections", "contextlib", "dataclasses", "enum", "functools", "json", "pathlib", "re", "signal", "typing"}
LIST_MODULES = "import sys; sys.path.append(sys.argv[1]); import launcher.node; print(*sys.modules)"
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.dictionaries(st.text(), inner),
    max_leaves=8,
)


def test_node_when_it_is_loaded_then_no_slow_package_is() -> None:
    package = Path(str(resources.files("stoker.launcher")))

    listed = subprocess.run(
        [sys.executable, "-I", "-S", "-c", LIST_MODULES, package.parent], check=True, capture_output=True, text=True
    ).stdout.split()

    assert "launcher.node" in listed
    assert SLOW & set(listed) == set()


@given(VALUES)
def test_json_when_a_value_is_written_then_the_library_reads_the_same(value: Any) -> None:
    assert json.loads(json_of(value)) == value


@pytest.mark.parametrize("value", [{"env": {"A": "ü\n\ud800"}, "argv": ["x", 1, 2.5, None, True]}, [], "", -7])
def test_json_when_the_library_wrote_a_file_then_the_same_is_read(value: Any, tmp_path: Path) -> None:
    file = tmp_path / "order"
    file.write_text(json.dumps(value))

    assert read_json(str(file)) == value


@pytest.mark.parametrize("content", [b"", b"}", b'{"a": ', b'{"a": 1,}', b"\xff"])
def test_json_when_a_file_has_none_then_its_error_is_that_of_a_value(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "order"
    file.write_bytes(content)

    with pytest.raises(ValueError):  # noqa: PT011 - whichever kind: the caller catches them all
        read_json(str(file))


def test_json_when_a_value_has_another_type_then_it_is_refused() -> None:
    with pytest.raises(TypeError, match="list in a record"):
        json_of({"runs": []})


def test_suppress_when_the_error_is_another_then_it_is_raised() -> None:
    with suppress(FileNotFoundError, PermissionError):
        raise PermissionError

    with pytest.raises(IsADirectoryError), suppress(FileNotFoundError):
        raise IsADirectoryError
