"""The files of a probe: a question that a node of a cluster has to read, and the answer that it has to leave.

Owns their layout below the shared directory, `probes/TOKEN/`, apart from all runs: no daemon looks there. Invariant: an
answer is whole when it appears.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
from pathlib import Path

from stoker.core.cluster_probe import ProbeAnswer
from stoker.files import read_regular, sync, write_new

# The batch script. Without the shared directory it can leave no answer, so it needs no better end.
SCRIPT = """#!/bin/sh
# 1: Python  2: directory of the probe  3: name of the answer
cd "$2" || exit 1
{
  uname -n
  date +%s
  cat question
  "$1" -I -S -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>&1 || :
} > ".$3" && mv ".$3" "$3"
"""
MOST_WORDS = 200
LINES = 4


class ProbeDirectory:
    """All methods raise OSError."""

    def __init__(self, shared: Path) -> None:
        self.nonce = secrets.token_hex(16)
        self._path = shared / "probes" / secrets.token_hex(8)

    @property
    def script(self) -> Path:
        return self._path / "start"

    def prepare(self) -> None:
        """Make it, with the question and the script. The shared directory has to be there."""
        with contextlib.suppress(FileExistsError):
            self._path.parent.mkdir(mode=0o700)
        self._path.mkdir(mode=0o700)
        write_new(self._path / "question", f"{self.nonce}\n".encode())
        write_new(self.script, SCRIPT.encode())
        sync(self._path)

    def arguments(self, python: str, name: str) -> tuple[str, ...]:
        """The arguments of the script."""
        return (python, str(self._path), name)

    def answers(self) -> set[str]:
        """The names of the answers that are there."""
        return {path.name for path in self._path.iterdir() if path.name.isdecimal()}

    def answer(self, name: str) -> ProbeAnswer:
        path = self._path / name
        lines = read_regular(path).decode(errors="replace").split("\n", LINES - 1)
        host, at_s, nonce, python = lines + [""] * (LINES - len(lines))
        at_ms = int(at_s) * 1_000 if at_s.isdecimal() else 0
        skew_ms = at_ms - path.stat().st_mtime_ns // 1_000_000
        return ProbeAnswer(host, nonce, " ".join(python.split())[:MOST_WORDS], skew_ms)

    def remove(self) -> None:
        shutil.rmtree(self._path, ignore_errors=True)
        with contextlib.suppress(OSError):  # another probe is under way
            self._path.parent.rmdir()
