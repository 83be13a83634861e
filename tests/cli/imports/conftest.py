"""`stoker workflow import` and `lint` in this process: no daemon is asked."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from stoker.cli import main
from stoker.cli.kit import render

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Imported(NamedTuple):
    """The output of the command; `flow` is the flow file that it wrote."""

    status: int
    out: str
    err: str

    @property
    def flow(self) -> dict[str, Any]:
        assert self.status == 0, self.err
        return tomllib.loads(self.out)

    @property
    def steps(self) -> dict[str, dict[str, Any]]:
        steps: dict[str, dict[str, Any]] = self.flow["steps"]
        return steps

    @property
    def needs(self) -> dict[str, list[str]]:
        return {name: step.get("needs", []) for name, step in self.steps.items()}


@pytest.fixture
def stoker(capfd: pytest.CaptureFixture[str]) -> Callable[..., Imported]:
    """Runs `stoker workflow …`."""
    render.messages_as_json(on=False)
    render.hints_name(None)

    def run(*arguments: str) -> Imported:
        capfd.readouterr()
        status = main.guarded(["workflow", *arguments])
        return Imported(status, *capfd.readouterr())

    return run


@pytest.fixture
def imported(
    stoker: Callable[..., Imported], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Imported]:
    """Imports a file with this text, from the folder where it is: `imported("make", "all:", name="Makefile")`."""
    monkeypatch.chdir(tmp_path)

    def run(tool: str, text: str, *options: str, name: str = "file") -> Imported:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
        return stoker("import", "--from", tool, *options, name)

    return run
