"""Stoker as a service of one user, under the user's own manager in a real systemd.

Owns an account of the container that it makes, and removes with all that the account runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support import container
from tests.support.facts import until
from tests.support.service import STOKERD, UNITS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.service import Service
WHY_NOT = container.missing()
pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))

ACCOUNT, HOME = "ann", "/home/ann"
CLIENT = STOKERD.with_name("stoker")


class UserService:
    """The commands of one user, whose manager runs as after `loginctl enable-linger`."""

    def __init__(self, service: Service) -> None:
        self.inside = service.container
        self.inside.run("useradd", "--create-home", "--home-dir", HOME, "--shell", "/bin/sh", ACCOUNT)
        self.uid = int(self.inside.run("id", "-u", ACCOUNT))
        self.inside.run("systemctl", "start", f"user@{self.uid}.service")

    def run(self, *command: str) -> str:
        environ = (f"XDG_RUNTIME_DIR=/run/user/{self.uid}", f"HOME={HOME}")
        return self.inside.run("runuser", "-u", ACCOUNT, "--", "env", "-C", HOME, *environ, *command)

    def install(self) -> None:
        """As docs/operations.md says, with the program of this test run."""
        self.run("mkdir", "-p", f"{HOME}/.local/bin", f"{HOME}/.config/systemd/user")
        self.run("ln", "-s", str(STOKERD), f"{HOME}/.local/bin/stokerd")
        for unit in (UNITS / "user").glob("stoker.*"):
            self.run("cp", str(unit), f"{HOME}/.config/systemd/user/")
        self.run("systemctl", "--user", "daemon-reload")
        self.run("systemctl", "--user", "enable", "--now", "stoker.socket", "stoker.service")

    @property
    def daemon(self) -> str:
        return self.run("systemctl", "--user", "show", "--property", "MainPID", "--value", "stoker.service")

    def end(self) -> None:
        self.inside.run("systemctl", "stop", f"user@{self.uid}.service")
        self.inside.run("userdel", "--remove", ACCOUNT)


@pytest.fixture
def of_user(service: Service) -> Iterator[UserService]:
    mine = UserService(service)
    mine.install()
    yield mine
    mine.end()


def test_user_service_when_the_daemon_is_killed_then_a_survivor_keeps_its_end(of_user: UserService) -> None:
    assert of_user.run(str(CLIENT), "run", "--", "id", "-un") == ACCOUNT
    first = of_user.daemon
    gate = f"{HOME}/gate"
    job = of_user.run(
        str(CLIENT), "submit", "--survive", "--", "sh", "-c", f"until [ -e {gate} ]; do sleep 0.05; done; exit 7"
    )
    until(lambda: '"running"' in of_user.run(str(CLIENT), "show", job, "--json"), why="the survivor runs")

    of_user.inside.run("kill", "-KILL", first)
    until(lambda: of_user.daemon not in ("0", first), why="another daemon")

    of_user.run("touch", gate)
    ended = of_user.run("sh", "-c", f"{CLIENT} wait {job} >/dev/null; echo $?")
    assert ended == "7"
