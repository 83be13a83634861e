"""`stokerd` that notes every message of the loop, and every access to the disk or the network while a turn decides.

Owns the wrapper program: `watched_programs` makes a directory with a `stokerd` that runs `main` below. The interpreter
audits opens, listings, sockets and sleeps by itself; calls that only ask about a path are audited here.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from stoker import daemon
from stoker.engine.dispatcher import Dispatcher
from stoker.engine.inbox import Message
from stoker.engine.loop import Loop
from stoker.engine.submit import Submission
from stoker.engine.turn import Turn
from tests.support.daemon import BIN

ROOT = Path(__file__).parents[2]
AUDITED = ("open", "os", "socket", "subprocess", "shutil", "glob", "tempfile", "fcntl", "sqlite3", "time", "import")
NOT_AUDITED = ("stat", "lstat", "access", "readlink", "statvfs")
END: Any = object()


def watched_programs(home: Path, *, reads: bool = False) -> Path:
    """A directory with such a `stokerd`. With `reads` its submissions read a file, for the negative control."""
    programs = home / "watched"
    programs.mkdir()
    program = programs / "stokerd"
    setup = f"import sys; sys.path.insert(0, {str(ROOT)!r})"
    call = f"from tests.support.turn_watch import main; sys.exit(main({str(home)!r}, reads={reads}))"
    program.write_text(f"#!{sys.executable}\n{setup}; {call}\n")
    program.chmod(0o755)
    (programs / "stoker").symlink_to(BIN / "stoker")
    return programs


def noted(home: Path, name: str) -> set[str]:
    """The different lines that were noted as `messages` or as `looks`."""
    return set((home / name).read_text().splitlines())


def main(home: str, *, reads: bool) -> int:
    deciding = threading.local()
    kinds, looks = ((Path(home) / name).open("a", buffering=1) for name in ("messages", "looks"))

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if getattr(deciding, "now", False) and event.partition(".")[0] in AUDITED:
            looks.write(f"{event} {arguments[:1]}\n")

    def while_deciding(function: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any) -> Any:
            deciding.now = True
            try:
                return function(*arguments)
            finally:
                deciding.now = False

        return watched

    decide = Loop._in_pieces

    def in_pieces(
        self: Loop, turn: Turn, messages: Sequence[Message], work: Iterator[int]
    ) -> Coroutine[Any, Any, None]:
        kinds.writelines(f"{type(message).__name__}\n" for message in messages)
        return decide(self, turn, messages, iter(while_deciding(partial(next, work, END)), END))

    if reads:
        apply = Submission.apply_to

        def read_and_apply(request: Submission, turn: Turn) -> Any:
            Path("/etc/hostname").exists()
            return apply(request, turn)

        Submission.apply_to = read_and_apply  # type: ignore[method-assign, assignment]
    for name in NOT_AUDITED:
        setattr(os, name, _audited(name, getattr(os, name)))
    Loop._in_pieces = in_pieces  # type: ignore[method-assign]
    Dispatcher.dispatch = while_deciding(Dispatcher.dispatch)  # type: ignore[method-assign]
    Turn.finish = while_deciding(Turn.finish)  # type: ignore[method-assign]
    sys.addaudithook(audit)
    return daemon.main()


def _audited(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def audited(*arguments: Any, **options: Any) -> Any:
        sys.audit(f"os.{name}", *arguments)
        return function(*arguments, **options)

    return audited
