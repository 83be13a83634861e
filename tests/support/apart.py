"""Runs a part of a test in a process of its own, which may run short of descriptors without harm to other tests.

Owns that process, the limit on its descriptors and, by strace, a call that fails. Its function stands at the top of a
test module, takes and gives JSON, and has asyncio's own event loop, which reports an epoll_ctl(2) that fails.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import inspect
import json
import os
import resource
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.facts import DEADLINE_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[2]


def run_apart(function: Callable[..., Any], *given: Any, fault: str | None = None, path: Path | None = None) -> Any:
    """Call `function` in a fresh process; give what it returned.

    `fault`: an injection of strace; `path`: only into calls about that file.
    """
    command = [sys.executable, "-m", "tests.support.apart", function.__module__, function.__name__, json.dumps(given)]
    if fault is not None:
        about = [] if path is None else ["-P", str(path)]
        command = ["strace", "-f", "-qq", "-o", os.devnull, *about, "-e", f"inject={fault}", *command]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


async def run_apart_async(function: Callable[..., Any], *given: Any, fault: str | None = None) -> Any:
    """The same, while the loop of the test goes on."""
    return await asyncio.to_thread(partial(run_apart, function, *given, fault=fault))


def fill_descriptors() -> None:
    """Open files until each number below the highest one in use is taken."""
    highest = max(int(path.name) for path in Path("/proc/self/fd").iterdir())
    while (last := os.dup(0)) < highest:
        pass
    os.close(last)


@contextlib.contextmanager
def spare_descriptors(count: int) -> Iterator[None]:
    """So many files can be opened, and no more."""
    fill_descriptors()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free + count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _call(module: str, name: str, given: str) -> None:
    result = getattr(importlib.import_module(module), name)(*json.loads(given))
    sys.stdout.write(json.dumps(asyncio.run(result) if inspect.iscoroutine(result) else result))


if __name__ == "__main__":
    _call(*sys.argv[1:])
