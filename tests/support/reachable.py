"""The programs of this checkout within reach of every user, also if they are in root's home.

Owns a mount namespace for a command: directories that are closed to others are covered there by an empty one that is
open, and the interpreter, the environment and the checkout are mounted in it under their own names. Nothing of the host
changes, and no privilege is given, so the rights of the users are tested as they are.
"""

from __future__ import annotations

import os
import shlex
import shutil
import stat
import subprocess
import sys
from collections import defaultdict
from functools import cache
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
NEEDED = sorted({Path(sys.base_prefix).resolve(), Path(sys.prefix), CHECKOUT})
NOBODY = "65533"


def _is_closed(path: Path) -> bool:
    return not path.stat().st_mode & stat.S_IXOTH


def _closed() -> dict[Path, list[Path]]:
    """The needed paths, by the topmost directory above each that is closed."""
    below = defaultdict(list)
    for path in NEEDED:
        closed = [parent for parent in reversed(path.parents) if _is_closed(parent)]
        if closed:
            below[closed[0]].append(path)
    return below


def command(*words: str) -> list[str]:
    """The command that runs `words` where every user reaches the programs."""
    steps = ["set -e"]
    for closed, needed in _closed().items():
        steps.append("stash=$(mktemp -d)")
        steps.append(f'mount --bind {shlex.quote(str(closed))} "$stash"')
        steps.append(f"mount -t tmpfs -o mode=755 tmpfs {shlex.quote(str(closed))}")
        for path in needed:
            steps.append(f"mkdir -p {shlex.quote(str(path))}")
            steps.append(f'mount --bind "$stash"/{shlex.quote(str(path.relative_to(closed)))} {shlex.quote(str(path))}')
        steps.append('umount "$stash"; rmdir "$stash"')
    if len(steps) == 1:
        return list(words)
    return ["unshare", "--mount", "sh", "-c", "\n".join([*steps, 'exec "$@"']), "reachable", *words]


@cache
def why_not() -> str | None:
    """Why the programs cannot be brought within reach here; None if they can."""
    if os.geteuid() != 0:
        return "only root can act as another user"
    lacking = [tool for tool in ("setpriv", "unshare") if shutil.which(tool) is None]
    if lacking:
        return f"not installed: {', '.join(lacking)}"
    nobody = ["setpriv", "--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"]
    probe = subprocess.run(
        command(*nobody, sys.executable, "-c", "import stoker.daemon"), check=False, capture_output=True, text=True
    )
    return None if probe.returncode == 0 else f"another user cannot run stokerd: {probe.stderr[-300:]}"
