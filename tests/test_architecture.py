"""ARCHITECTURE.md is true: every file stands in it, its layers are those of the import contract, its paths exist."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "daemon" / "stoker"
TEXT = (ROOT / "ARCHITECTURE.md").read_text()
OUTSIDE = ("migrations/", "tests/")


def block(name: str) -> str:
    """The text between two marks."""
    return TEXT.split(f"<!-- {name} -->")[1].split(f"<!-- /{name} -->")[0]


def listed_files() -> set[str]:
    """`room/file` of every file in the table of rooms."""
    rows = [line.strip("| ").split(" | ") for line in block("files").splitlines() if line.startswith("| ")]
    rooms = {room.strip("`").removeprefix("top"): files for room, files in rows if room != "room"}
    words = {room: re.findall(r"`([a-z_]+)`", files) for room, files in rooms.items()}
    return {str(Path(room, name)) for room, names in words.items() for name in names}


def modules() -> set[str]:
    files = [path for path in PACKAGE.rglob("*.py") if not path.name.startswith("__")]
    return {str(path.relative_to(PACKAGE).with_suffix("")) for path in files}


def test_files_when_counted_then_each_stands_in_the_architecture() -> None:
    programs = {"stokerd"}  # in backticks, too

    assert listed_files() - programs == modules()


def test_layers_when_compared_with_the_contract_then_they_are_the_same() -> None:
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    drawn = [line.split("  ")[0] for line in block("layers").strip().strip("`").strip().splitlines()]

    assert drawn == contract["layers"]


def test_paths_when_the_architecture_names_them_then_they_exist() -> None:
    named = set(re.findall(r"`((?:[a-z_]+/)+[a-z_]+\.[a-z]+)`", TEXT)) | set(re.findall(r"`((?:[a-z_]+/)+)`", TEXT))
    places = {path: ROOT / path if path.startswith(OUTSIDE) else PACKAGE / path for path in named}

    assert named
    assert [path for path, place in places.items() if not place.exists() and not (ROOT / path).exists()] == []
