"""Pids that are used again under real daemons: decoys take the numbers of workers whose daemon could not look.

Owns the kernels: with pidfs and without. Decoys have the user and the command line of the workers. Those of other users
are in tests/run_as.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.support import reuse
from tests.support.crowd import ENDS, Crowd, strike
from tests.support.daemon import BIN, DaemonProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

WORKERS = min(int(os.environ.get("STOKER_FAULTS", "6")), 60)
ROUNDS = max(1, int(os.environ.get("STOKER_FAULTS", "6")) // WORKERS)
MISSING = reuse.why_not()
SETTINGS = f"[daemon]\nmax_running = {WORKERS + 2}\n"

pytestmark = [
    pytest.mark.skipif(MISSING is not None, reason=str(MISSING)),
    pytest.mark.timeout(300 + 60 * ROUNDS),
]

# Replaces the one function that reads inodes of pidfds, as on a kernel before 6.9.
OLD_KERNEL = """#!{python}
from stoker.process import identity
identity.pidfs_inode = lambda _pidfd: None
from stoker.daemon import main
main()
"""


@pytest.fixture(params=["pidfs", "no pidfs"])
def crowd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Crowd]:
    programs = BIN
    if request.param == "no pidfs":
        programs = tmp_path
        (programs / "stokerd").write_text(OLD_KERNEL.format(python=BIN / "python"))
        (programs / "stokerd").chmod(0o755)
    with DaemonProcess(SETTINGS, programs=programs) as daemon:
        submitted = Crowd(daemon, WORKERS)
        yield submitted
        submitted.leave()


@pytest.mark.parametrize("happen", ENDS)
def test_strangers_when_they_have_the_numbers_of_workers_then_no_daemon_signals_them(
    crowd: Crowd, happen: Callable[[Crowd], None]
) -> None:
    strike(crowd, happen, ROUNDS * WORKERS // 2)
