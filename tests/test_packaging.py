"""An installation has every file of the tree: editable, from a wheel, and from a wheel of an sdist.

Owns the comparison of the wheel with the tree, and one daemon started from a wheel in an environment with nothing else
in it. Builds happen in a copy: they leave folders behind.
"""

from __future__ import annotations

import importlib.resources
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import stoker
from tests.support.daemon import DaemonProcess

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).parents[1]
DATA = f"stoker-{stoker.__version__}.data/data"  # what is installed outside of the package
SHIPPED = ("*.py", "*.sql", "*.service", "*.socket", "*.conf", "py.typed", "*.html", "*.css", "*.js", "*.svg")
LEFT_BEHIND = shutil.ignore_patterns("__pycache__", "*.egg-info")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel, built from an sdist that was built from a copy of the tree."""
    copy = tmp_path_factory.mktemp("source")
    for folder in ("daemon", "man", "migrations", "systemd"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=LEFT_BEHIND)
    for file in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, copy)
    run([sys.executable, "-m", "build", "--no-isolation", "--outdir", str(copy / "dist"), str(copy)])
    return next((copy / "dist").glob("*.whl"))


def run(command: Sequence[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def tree() -> set[str]:
    """The files that belong in the wheel, by their names in it."""
    package = {
        str(path.relative_to(ROOT / "daemon")) for kind in SHIPPED for path in (ROOT / "daemon" / "stoker").rglob(kind)
    }
    manuals = {f"{DATA}/share/man/man{page.suffix[1:]}/{page.name}" for page in (ROOT / "man").iterdir()}
    return (
        package
        | manuals
        | {
            f"stoker/{path.relative_to(ROOT)}"
            for folder in ("migrations", "systemd")
            for kind in SHIPPED
            for path in (ROOT / folder).rglob(kind)
        }
    )


def environment(folder: Path, wheel: Path) -> Path:
    """A new environment with the wheel and what it asks for; gives the folder of its programs."""
    python = folder / "bin" / "python"
    uv = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", str(python), "--offline", str(wheel)]
    run([sys.executable, "-m", "venv", "--without-pip", str(folder)])
    # The packages that `make venv` fetched with uv are in its cache: no network is needed. After pip it is needed.
    if subprocess.run(uv, capture_output=True, check=False).returncode != 0:
        run([str(python), "-m", "ensurepip"])
        run([str(python), "-m", "pip", "install", "--quiet", str(wheel)])
    return folder / "bin"


def test_wheel_when_built_then_it_holds_every_file_of_the_tree(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.split("/")[0].endswith(".dist-info")}

    assert names == tree()


def test_wheel_when_installed_where_nothing_else_is_then_its_daemon_runs_a_job(wheel: Path, tmp_path: Path) -> None:
    programs = environment(tmp_path / "venv", wheel)

    assert (programs.parent / "share/man/man1/stoker.1").is_file()
    with DaemonProcess(programs=programs) as daemon:
        result = daemon.cli("run", "--", "sh", "-c", "echo from the wheel; exit 7")
        status = daemon.stop()

    assert (result.stdout, result.returncode) == ("from the wheel\n", 7)
    assert status == 0


def test_migrations_when_installed_editable_then_they_are_those_of_the_checkout() -> None:
    installed = {file.name for file in importlib.resources.files("stoker.migrations").iterdir() if file.is_file()}

    assert {path.name for path in (ROOT / "migrations").glob("*.sql")} <= installed
