"""Build the Debian package: Stoker with its own Python environment in /opt/stoker, its units, manuals and completions.

Owns the layout of the installed files. The environment belongs to the Python of the system (/usr/bin/python3), as the
package depends on that version; pip and the programs of the libraries are left out. With SOURCE_DATE_EPOCH, by default
the time of the last commit, the same sources and libraries give the same bytes.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
PARTS = ROOT / "deb"
PYTHON = "/usr/bin/python3"
HOME = "opt/stoker"
COMMANDS = ("stoker", "stokerd")  # what people type; units start the spawner by its path
PROGRAMS = (*COMMANDS, "stoker-spawner")
EXTRAS = "desktop,import,mcp,otlp,prometheus,tui,web"
BUILT_FROM = ("daemon", "man", "migrations", "systemd", "pyproject.toml", "setup.py", "README.md", "LICENSE")
SCRIPTS = ("postinst", "prerm", "postrm")
COMPLETIONS = {
    "bash": "usr/share/bash-completion/completions/stoker",
    "zsh": "usr/share/zsh/vendor-completions/_stoker",
    "fish": "usr/share/fish/vendor_completions.d/stoker.fish",
}
EXAMPLES = ("config/stoker.toml", "config/examples", "systemd/subgroup.conf", "systemd/split.conf")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--to", type=Path, default=ROOT / "dist", help="the folder for the package (default: dist/)")
    parser.add_argument("--fast", action="store_true", help="compress little: a larger package in less time")
    asked = parser.parse_args()
    lacking = [tool for tool in ("dpkg-deb", PYTHON) if shutil.which(tool) is None]
    if lacking:
        sys.exit(f"make deb: not installed: {', '.join(lacking)}; on Debian: apt-get install dpkg python3")
    os.environ.setdefault("SOURCE_DATE_EPOCH", _output(["git", "-C", str(ROOT), "log", "-1", "--format=%ct"]))
    os.umask(0o022)
    with tempfile.TemporaryDirectory(prefix="stoker-deb-") as scratch:
        stage = Path(scratch, "stage")
        stage.mkdir()
        print(_build(stage, Path(scratch), asked.to, fast=asked.fast))


def _build(stage: Path, scratch: Path, to: Path, *, fast: bool) -> Path:
    """Lay out the files below `stage` and pack them; gives the package."""
    _install(_wheel(scratch), stage)
    _put_manuals(stage)
    _put_units(stage)
    _put_completions(stage)
    _put_documents(stage)
    name = _put_control(stage)
    to.mkdir(parents=True, exist_ok=True)
    package = to / f"{name}.deb"
    compression = ["-Zgzip", "-z1"] if fast else ["-Zxz"]
    _run(["dpkg-deb", "--root-owner-group", *compression, "--build", str(stage), str(package)])
    return package


def _wheel(scratch: Path) -> Path:
    """A wheel from a copy of the sources: a build leaves folders behind."""
    copy = scratch / "source"
    copy.mkdir()
    for name in BUILT_FROM:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copy(source, copy)
    _run([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(scratch), str(copy)])
    return next(scratch.glob("*.whl"))


def _install(wheel: Path, stage: Path) -> None:
    """The environment, with the programs of Stoker alone, and compiled for the place where it will be."""
    home = stage / HOME
    uv = [sys.executable, "-m", "uv"]
    _run([*uv, "venv", "--quiet", "--no-project", "--python", PYTHON, str(home)])
    install = [*uv, "pip", "install", "--quiet", "--link-mode", "copy", "--python", str(home / "bin" / "python")]
    # What `make venv` fetched with uv is in its cache: mostly no network is needed.
    if subprocess.run([*install, "--offline", f"{wheel}[{EXTRAS}]"], capture_output=True, check=False).returncode:
        _run([*install, f"{wheel}[{EXTRAS}]"])
    for program in (home / "bin").iterdir():
        if program.name in PROGRAMS:
            program.write_text(program.read_text().replace(str(stage), "", 1))
        elif not program.name.startswith("python"):
            program.unlink()
    for left in (home / ".gitignore", home / ".lock", home / "CACHEDIR.TAG"):
        left.unlink(missing_ok=True)
    # Pure files of the package: they are never written at run time, so their source need not be compared.
    compiled = ["-s", str(stage), "-p", "/", "--invalidation-mode", "unchecked-hash", str(home / "lib")]
    _run([PYTHON, "-m", "compileall", "-q", "-j", "0", *compiled])


def _put_manuals(stage: Path) -> None:
    shutil.rmtree(stage / HOME / "share" / "man", ignore_errors=True)
    for page in sorted((ROOT / "man").iterdir()):
        _put_compressed(page, stage / "usr/share/man" / f"man{page.suffix[1:]}" / f"{page.name}.gz")


def _put_units(stage: Path) -> None:
    units = ROOT / "systemd"
    for kind, folder in (("system", units), ("user", units / "user")):
        for unit in (*folder.glob("*.service"), *folder.glob("*.socket")):
            target = stage / "usr/lib/systemd" / kind / unit.name
            _put(unit, target)
            target.write_text(unit.read_text().replace("%h/.local/bin", f"/{HOME}/bin"))
    _put(units / "sysusers.conf", stage / "usr/lib/sysusers.d/stoker.conf")
    _put(units / "tmpfiles.conf", stage / "usr/lib/tmpfiles.d/stoker.conf")
    _put(PARTS / "needrestart.conf", stage / "etc/needrestart/conf.d/stoker.conf")


def _put_completions(stage: Path) -> None:
    """The scripts as the installed program prints them; and its programs where shells look for them."""
    python = stage / HOME / "bin" / "python"
    for shell, place in COMPLETIONS.items():
        script = _output([str(python), "-m", "stoker.cli.main", "completion", shell])
        target = stage / place
        target.parent.mkdir(parents=True)
        target.write_text(script + "\n")
    (stage / "usr/bin").mkdir()
    for program in COMMANDS:
        (stage / "usr/bin" / program).symlink_to(f"/{HOME}/bin/{program}")


def _put_documents(stage: Path) -> None:
    documents = stage / "usr/share/doc/stoker"
    _put(ROOT / "LICENSE", documents / "copyright")
    _put(ROOT / "README.md", documents / "README.md")
    _put_compressed(ROOT / "CHANGELOG.md", documents / "changelog.gz")
    shutil.copytree(ROOT / "docs", documents / "docs")
    for example in EXAMPLES:
        source, target = ROOT / example, documents / "examples" / Path(example).name
        if source.is_dir():
            shutil.copytree(source, target.parent, dirs_exist_ok=True)
        else:
            _put(source, target)


def _put_control(stage: Path) -> str:
    """The description, the scripts and the sums; gives the name of the package with version and architecture."""
    version = _output([str(stage / HOME / "bin" / "python"), "-c", "import stoker; print(stoker.__version__)"])
    python = _output([PYTHON, "-c", "import sys; print(*sys.version_info[:2], sep='.')"])
    major, minor = python.split(".")
    fields = {
        "version": version,
        "architecture": _output(["dpkg", "--print-architecture"]),
        "installed_kib": sum(path.lstat().st_size for path in _files(stage)) // 1024,
        "python": python,
        "next_python": f"{major}.{int(minor) + 1}",
    }
    control = stage / "DEBIAN"
    control.mkdir()
    (control / "control").write_text((PARTS / "control").read_text().format_map(fields))
    for script in SCRIPTS:
        shutil.copy(PARTS / script, control)
        (control / script).chmod(0o755)
    settings = sorted(f"/{path.relative_to(stage)}\n" for path in _files(stage / "etc"))
    (control / "conffiles").write_text("".join(settings))
    sums = [f"{hashlib.md5(path.read_bytes()).hexdigest()}  {path.relative_to(stage)}\n" for path in _regular(stage)]  # noqa: S324 - what dpkg and debsums compare
    (control / "md5sums").write_text("".join(sums))
    return "stoker_{version}_{architecture}".format_map(fields)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_symlink() or path.is_file())


def _regular(stage: Path) -> Iterator[Path]:
    return (path for path in _files(stage) if not path.is_symlink() and path.relative_to(stage).parts[0] != "DEBIAN")


def _put(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)
    target.chmod(0o644)


def _put_compressed(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(gzip.compress(source.read_bytes(), mtime=0))


def _output(command: Sequence[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _run(command: Sequence[str]) -> None:
    """Run a command; if it fails, end with what it printed."""
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"make deb: {' '.join(command)}: exit {done.returncode}\n{done.stdout}{done.stderr}")


if __name__ == "__main__":
    main()
