"""A daemon without privileges, a spawner beside it, and users whose jobs run as themselves."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import stoker
from tests.support import reachable
from tests.support.accounts import SpawnerHost
from tests.support.daemon import BIN, DaemonProcess

if TYPE_CHECKING:
    import pwd
    from collections.abc import Mapping, Sequence

    from tests.support.accounts import Accounts

SETTINGS = """
[access]
users = "everyone"
admin_group = "{group}"
[run_as]
user = "submitter"
directory = "{spawner.users}"
spawner = "{spawner.socket}"
"""


class RunAsDaemon(DaemonProcess):
    """stokerd as a user of its own, which has no privilege and is in no other user's group."""

    def __init__(self, accounts: Accounts, settings: str = "") -> None:
        self.user = accounts.add("d")
        self.spawner = SpawnerHost(self.user)
        self.accounts, self.group = accounts, accounts.add_group("admins")
        super().__init__(SETTINGS.format(spawner=self.spawner, group=self.group) + settings)
        self.home.chmod(0o755)
        self.state_dir.mkdir(mode=0o700)
        for path in (self.home, self.state_dir):
            os.chown(path, self.user.pw_uid, self.user.pw_gid)

    def spawn(self, *arguments: str, environ: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        with contextlib.suppress(FileNotFoundError):
            (self.home / "notify").chmod(0o666)
        become = ["setpriv", "--reuid", str(self.user.pw_uid), "--regid", str(self.user.pw_gid), "--clear-groups"]
        command = [str(BIN / "stokerd"), "--config", str(self.config), "--state-dir", str(self.state_dir)]
        command += ["--socket", str(self.socket), *arguments]
        with self.stderr.open("ab") as stderr:
            self.process = subprocess.Popen(
                reachable.command(*become, *command),
                env={**self.environ, **(environ or {})},
                stdin=subprocess.DEVNULL,
                stderr=stderr,
                cwd="/",
            )
        return self.process

    def add_user(self, name: str, *options: str, groups: Sequence[str] = ()) -> pwd.struct_passwd:
        """A user that may use this daemon."""
        return self.accounts.add(name, *options, groups=[self.group, *groups])

    def client_of(self, user: pwd.struct_passwd) -> stoker.Client:
        """A client of the daemon as that user: the kernel notes who connects."""
        groups = os.getgroups()
        os.setgroups(os.getgrouplist(user.pw_name, user.pw_gid))
        os.seteuid(user.pw_uid)
        try:
            client = self.client()
            client.call("system.status")
        finally:
            os.seteuid(0)
            os.setgroups(groups)
        return client

    def directory_of(self, user: pwd.struct_passwd) -> Path:
        return self.spawner.users / str(user.pw_uid)

    def end(self) -> None:
        super().end()
        self.spawner.end()
        shutil.rmtree(self.home, ignore_errors=True)


def shell(text: str, **more: Any) -> dict[str, Any]:
    return {"command": "/bin/sh", "args": ["-c", text], "working_dir": "/", **more}
