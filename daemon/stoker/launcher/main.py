"""Start of a launcher: `python -I -S .../launcher --state-dir DIR --id ID --instance HEX --open-files N`.

For another user it is started by the spawner, with `--daemon-uid N`: that user takes its orders and reads its files.

Owns the state of this process: subreaper, signals ignored (a SIGTERM is noted), `launchers/<id>.lock` held for life, no
descriptor of the process that started it. Writes one byte to stdout when it listens, then closes stdout.
"""

from __future__ import annotations

import os
import signal
from typing import NamedTuple

from . import kernel
from .launcher import Launcher
from .listener import listen
from .loop import LauncherLoop
from .outcomes import OutcomeLog

READY = b"+"
# We inherit the descriptor of the lock, locked already, so that we never live without it.
LOCK = 3
# Our group reads what we write only where that is the group of the daemon.
PRIVATE, SHARING = 0o077, 0o007
OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Options(NamedTuple):
    state_dir: str
    id: str
    instance: str
    open_files: int
    daemon_uid: int


def main(arguments: list[str]) -> int:
    options = _parse(arguments)
    shares = options.daemon_uid != os.geteuid()
    os.umask(SHARING if shares else PRIVATE)
    _isolate(options.open_files)
    os.chdir("/")
    directory = os.open(f"{options.state_dir}/launchers", OPEN_DIRECTORY)
    listener = listen(directory, f"{options.id}.sock")
    outcome_log = OutcomeLog(f"{options.state_dir}/outcomes", options.id)
    work = f"{options.state_dir}/work" if shares else None
    launcher = Launcher(options.id, options.instance, outcome_log, work)
    loop = LauncherLoop(launcher, listener, options.daemon_uid)
    _report_ready()
    loop.run()
    for name in (f"{options.id}.sock", f"{options.id}.lock"):
        os.unlink(name, dir_fd=directory)
    return 0


def _parse(arguments: list[str]) -> Options:
    """Read the options; the daemon always gives all of them. argparse would be the largest import."""
    named = dict(zip(arguments[::2], arguments[1::2], strict=True))
    daemon_uid = int(named.get("--daemon-uid", os.geteuid()))
    return Options(named["--state-dir"], named["--id"], named["--instance"], int(named["--open-files"]), daemon_uid)


def _isolate(open_files: int) -> None:
    os.set_inheritable(LOCK, False)  # noqa: FBT003
    os.closerange(LOCK + 1, os.sysconf("SC_OPEN_MAX"))
    kernel.give_workers_open_files(open_files)
    kernel.allow_open_files()
    kernel.ignore_signals()
    kernel.keep_pending(signal.SIGTERM)
    kernel.become_subreaper()


def _report_ready() -> None:
    os.write(1, READY)
    null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    os.dup2(null, 1)
    os.close(null)
