"""A real build in C: the source of zlib, as Debian has it, and its build as a workflow.

Owns getting the source (a Debian source package, with package lists and a cache of the test's own; without a network
the test is skipped) and the build graph: a step for each object file, then archive, link and the library's own tests.
Each run of a worker writes a line into a ledger, which shows from outside what ran twice.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.support.flows import flow
from tests.support.work import lines

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
RECORDED = 'echo "START $STOKER_RUN_ID" >> {ledger}; {command} && echo "END $STOKER_RUN_ID" >> {ledger}'
TESTS = {
    "example": "./example example.gz | grep -F 'zlib version'",
    "minigzip": 'test "$(echo hello world | ./minigzip | ./minigzip -d)" = "hello world"',
    "infcover": "./infcover",
}


# --- the source ---------------------------------------------------------------------------------------------


def fetch(package: str, folder: Path) -> Path:
    """Unpack the upstream source of a Debian package into `folder`. Skips the test if it cannot be downloaded."""
    if shutil.which("apt-get") is None or shutil.which("cc") is None or shutil.which("ar") is None:
        pytest.skip("apt-get, cc and ar are wanted")
    for name in ("lists/partial", "cache/archives/partial", "parts"):
        (folder / name).mkdir(parents=True)
    (folder / "parts" / "source.list").write_text(_lines_of_sources())
    own = {"Dir::Etc::sourcelist": "/dev/null", "Dir::Etc::sourceparts": folder / "parts", "APT::Sandbox::User": "root",
           "Dir::State::lists": folder / "lists", "Dir::Cache": folder / "cache"}  # fmt: skip
    options = [word for name, value in own.items() for word in ("-o", f"{name}={value}")]
    for arguments in (["update"], ["source", "--download-only", package]):
        done = subprocess.run(
            ["apt-get", *options, *arguments], cwd=folder, capture_output=True, text=True, timeout=120, check=False
        )
        if done.returncode != 0:
            pytest.skip(f"the source of {package} cannot be had: {done.stderr.strip()[-200:]}")
    (packed,) = folder.glob("*.orig.tar.*")
    with tarfile.open(packed) as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # early 3.11 has none
        archive.extractall(folder / "source")
    (unpacked,) = (folder / "source").iterdir()
    return unpacked


def _lines_of_sources() -> str:
    """A deb-src line for each source of packages of this machine's release."""
    arguments = ["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)"]
    targets = subprocess.run(
        [*arguments, "Created-By: Packages", "Component: main"], capture_output=True, text=True, check=False
    )
    places = [place for place in dict.fromkeys(targets.stdout.splitlines()) if "debian" in place.split()[0]]
    if not places:
        pytest.skip("apt knows of no place with packages of Debian")
    signed = f"[signed-by={KEYRING}] " if KEYRING.exists() else ""
    return "".join(f"deb-src {signed}{place}\n" for place in places)


# --- the build ----------------------------------------------------------------------------------------------


def graph(source: Path, out: Path, ledger: Path) -> dict[str, Any]:
    """A step for each object file, one for the archive, and a link and a test for each of its programs."""

    def step(command: str, *needs: str) -> dict[str, Any]:
        script = RECORDED.format(ledger=ledger, command=command)
        return {"command": "/bin/sh", "args": ["-c", script], "needs": list(needs)}

    compile_ = f"cc -O1 -DHAVE_UNISTD_H -I{source} -c"
    parts = {f"{path.stem}.o": step(f"{compile_} {path}") for path in sorted(source.glob("*.c"))}
    steps = {**parts, "libz.a": step(f"ar rcs libz.a {' '.join(parts)}", *parts)}
    for program, test in TESTS.items():
        steps[f"{program}.o"] = step(f"{compile_} {source}/test/{program}.c")
        steps[program] = step(f"cc -o {program} {program}.o libz.a", f"{program}.o", "libz.a")
        steps[f"test-{program}"] = step(test, program)
    defaults = {"working_dir": str(out), "on_orphan": "requeue", "max_orphanings": 100, "grace_ms": 500}
    return flow(steps, defaults=defaults)


def binaries(out: Path) -> dict[str, str]:
    """The digest of the archive and of each program that a build has made."""
    return {name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in ("libz.a", *TESTS)}


def ends(ledger: Path) -> int:
    return sum(line.startswith("END") for line in lines(ledger))
