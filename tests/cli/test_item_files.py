"""Lists of items in files beside a flow file: read by the client, so that the daemon opens nothing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from stoker.cli import flowfile
from stoker.core.errors import FlowInvalid
from stoker.rpc.flows import planned
from stoker.rpc.wire import MAX_FRAME_BYTES

if TYPE_CHECKING:
    from pathlib import Path


def flow_file(folder: Path, file: str, **more: Any) -> str:
    path = folder / "flow.json"
    steps = {"a": {"command": "true", "args": ["{{item}}"], "each": {"file": file}, **more}}
    path.write_text(json.dumps({"name": "x", "steps": steps}))
    return str(path)


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("a.c\n\n b c \nd", ["a.c", " b c ", "d"]),
        ('["x", 3]', ["x", 3]),
        ("plain {{x}}\n", ["plain {{x}}"]),
        ('["{{y}}"]', ["{{y}}"]),
    ],
    ids=["lines", "JSON", "braces", "braces in JSON"],
)
def test_list_when_a_file_has_it_then_each_entry_is_an_item(tmp_path: Path, text: str, items: list[Any]) -> None:
    (tmp_path / "list.txt").write_text(text)

    steps = planned(flowfile.read(flow_file(tmp_path, "list.txt"))[0]).steps

    assert [one.item for one in steps] == items


def test_list_when_the_file_has_tables_then_they_are_items(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text('[{"os": "linux"}]')

    (one,) = planned(flowfile.read(flow_file(tmp_path, "list.json", args=["{{item.os}}"]))[0]).steps

    assert (one.name, one.sent.args) == ("a[linux]", ("linux",))


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (None, "steps.a.each.file: cannot read 'list.txt': No such file or directory"),
        (b"\xff", "steps.a.each.file: 'list.txt' is not UTF-8"),
        (b"[1, ", "steps.a.each.file: 'list.txt': "),
        (b"a\0b", "steps.a.each[0]: "),
        (b"x" * (MAX_FRAME_BYTES + 1), f"larger than {MAX_FRAME_BYTES} bytes"),
    ],
    ids=["no file", "no text", "no list", "a NUL", "too large"],
)
def test_list_when_the_file_has_none_then_the_step_is_named(tmp_path: Path, raw: bytes | None, message: str) -> None:
    if raw is not None:
        (tmp_path / "list.txt").write_bytes(raw)

    with pytest.raises(FlowInvalid) as refused:
        flowfile.read(flow_file(tmp_path, "list.txt"))

    assert message in refused.value.details["errors"][0]
