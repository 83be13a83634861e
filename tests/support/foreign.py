"""Processes of another user: a Stoker that is not root, and a program by which its workers become root.

Owns the unprivileged uid, the wrapper that runs a program as that user, and the set-uid program (like sudo). The user
may open every file, because the interpreter may be in root's home, and has no other privilege: it can neither signal a
process of root nor read its environment.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

UID = 64_242
BECOME_ROOT = """
#define _GNU_SOURCE
#include <unistd.h>
int main(int argc, char **argv) {
    if (argc < 2 || setresgid(0, 0, 0) || setresuid(0, 0, 0)) return 1;
    execv(argv[1], argv + 1);
    return 2;
}
"""


def why_not() -> str | None:
    """Why no other user can be used here; None if one can."""
    if os.geteuid() != 0:
        return "only root can act as another user"
    lacking = [tool for tool in ("setpriv", "gcc") if shutil.which(tool) is None]
    return f"not installed: {', '.join(lacking)}" if lacking else None


def wrapper(path: Path, program: str) -> Path:
    """A script that runs `program` as the other user."""
    capability = "--inh-caps +dac_override --ambient-caps +dac_override"
    user = f"--reuid {UID} --regid {UID} --clear-groups"
    path.write_text(f'#!/bin/sh\nexec setpriv {user} {capability} {program} "$@"\n')
    path.chmod(0o755)
    return path


def become_root(directory: Path) -> Path:
    """The set-uid program: it executes its arguments as root."""
    program = directory / "become-root"
    subprocess.run(["gcc", "-x", "c", "-o", str(program), "-"], input=BECOME_ROOT, text=True, check=True)
    program.chmod(0o4755)
    return program


def give(directory: Path) -> None:
    """Give the directory and all in it to the other user."""
    for path in (directory, *directory.rglob("*")):
        os.chown(path, UID, UID, follow_symlinks=False)


def uids(pid: int) -> set[int]:
    """Real, effective, saved and file system uid of a process."""
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    line = next(line for line in status if line.startswith("Uid:"))
    return set(map(int, line.split()[1:]))
