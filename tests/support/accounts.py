"""Real accounts of this host, and a spawner for them.

Owns the users and groups, which it adds and removes by the tools of the host, the policy file, and the spawner process.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import stoker
from stoker.spawner.packets import ANSWER, MAGIC, MAX_ANSWER_BYTES, REQUEST
from tests.support import reachable
from tests.support.facts import until

PROGRAM = Path(stoker.__file__).parent / "spawner" / "__main__.py"
# Those of its unit, systemd/stoker-launcher.service.
RIGHTS = ("setpriv", "--bounding-set", "-all,+setuid,+setgid,+chown", "--no-new-privs")
LOCK = Path(tempfile.gettempdir()) / "stoker-test-accounts.lock"
TOOLS = ("useradd", "userdel", "groupadd", "groupdel", "usermod")


def why_not() -> str | None:
    """Why no accounts can be made here; None if they can."""
    if os.geteuid() != 0:
        return "only root can make accounts"
    lacking = [tool for tool in TOOLS if shutil.which(tool) is None]
    return f"not installed: {', '.join(lacking)}" if lacking else reachable.why_not()


class Accounts:
    """Users named `stk-<hex>-<name>`; all are removed by `remove`."""

    def __init__(self) -> None:
        self._prefix = f"stk{secrets.token_hex(3)}"
        self._users: list[str] = []
        self._groups: list[str] = []

    def add(self, name: str, *options: str, groups: Sequence[str] = ()) -> pwd.struct_passwd:
        user = f"{self._prefix}{name}"
        joined = ["--groups", ",".join(groups)] if groups else []
        _run("useradd", "--no-create-home", "--user-group", "--shell", "/bin/sh", *joined, *options, user)
        self._users.append(user)
        return pwd.getpwnam(user)

    def add_group(self, name: str) -> str:
        group = f"{self._prefix}{name}"
        _run("groupadd", group)
        self._groups.append(group)
        return group

    def change(self, user: pwd.struct_passwd, *options: str) -> None:
        _run("usermod", *options, user.pw_name)

    def remove_user(self, user: pwd.struct_passwd) -> None:
        self._users.remove(user.pw_name)
        _run("userdel", "--force", user.pw_name)

    def remove(self) -> None:
        for user in self._users:
            _run("userdel", "--force", user)
        for group in self._groups:
            _run("groupdel", group)


def _run(*command: str) -> None:
    """One at a time: the tools of two test processes would wait for each other's lock for a second at a time."""
    with LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        subprocess.run(command, check=True, capture_output=True)


class SpawnAnswer(NamedTuple):
    """`ready`: what the launcher wrote to the descriptor that went with the request."""

    code: int
    pid: int
    words: str


class SpawnerHost:
    """A spawner of its own, with its policy, socket and directory; `daemon` is the user that may ask it."""

    def __init__(self, daemon: pwd.struct_passwd) -> None:
        self.daemon = daemon
        self.home = Path(tempfile.mkdtemp(prefix="stoker-spawner-"))
        self.home.chmod(0o755)
        self.policy = self.home / "run-as.toml"
        self.socket = self.home / "spawner.sock"
        self.users = self.home / "users"
        self.log = self.home / "log"
        self.launchers: list[int] = []
        self.process: subprocess.Popen[bytes] | None = None
        self.allow("")

    def allow(self, rules: str) -> None:
        self.policy.write_text(
            f'daemon_user = "{self.daemon.pw_name}"\ndirectory = "{self.users}"\nmin_uid = 1000\n{rules}'
        )
        self.policy.chmod(0o644)

    def start(self) -> None:
        program = [*RIGHTS, sys.executable, "-I", "-S", os.fspath(PROGRAM)]
        options = ["--policy", os.fspath(self.policy), "--socket", os.fspath(self.socket)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(reachable.command(*program, *options), stderr=log, stdin=subprocess.DEVNULL)
        until(lambda: "serving" in self.log.read_text(), why="the spawner")

    def connect(self, uid: int | None = None) -> socket.socket:
        """A connection as the daemon's user, or as another."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        os.seteuid(self.daemon.pw_uid if uid is None else uid)
        try:
            sock.connect(os.fspath(self.socket))
        except OSError:
            sock.close()
            raise
        finally:
            os.seteuid(0)
        return sock

    def ask(self, packet: bytes, fds: Sequence[int] = (), uid: int | None = None) -> SpawnAnswer:
        """Send a packet, and wait for the answer. An answer of code 255 stands for none."""
        with self.connect(uid) as sock:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                sock.sendmsg([packet], rights)
            try:
                answer = sock.recv(MAX_ANSWER_BYTES)
            except ConnectionResetError:  # it did not read the packet
                answer = b""
        if not answer:
            return SpawnAnswer(255, 0, "")
        code, pid = ANSWER.unpack_from(answer)
        return SpawnAnswer(code, pid, answer[ANSWER.size :].decode())

    def launch(self, uid: int, *, epoch: int = 1, asked_by: int | None = None) -> tuple[SpawnAnswer, bytes]:
        """Ask for a launcher. Gives the answer, and what the launcher said once it was ready."""
        ready, ready_end = os.pipe()
        try:
            packet = REQUEST.pack(MAGIC, uid, 256, epoch, secrets.token_bytes(4), b"instance")
            answer = self.ask(packet, [ready_end], asked_by)
            os.close(ready_end)
            if answer.pid:
                self.launchers.append(answer.pid)
            return answer, os.read(ready, 1)
        finally:
            os.close(ready)

    def end(self) -> None:
        for pid in self.launchers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.home)


@contextlib.contextmanager
def accounts() -> Iterator[Accounts]:
    made = Accounts()
    try:
        yield made
    finally:
        made.remove()
