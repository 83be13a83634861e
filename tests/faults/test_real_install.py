"""The way to a service in docs/operations.md, word for word, on a machine on which Stoker was never installed.

One line differs: the container has no network, so `pip install .` is replaced by links to the programs of this test
run. That a wheel installs into a fresh environment is tests/test_packaging.py.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.support import container
from tests.support.container import REPOSITORY, Container
from tests.support.facts import until
from tests.support.service import STOKERD, open_programs

if TYPE_CHECKING:
    from collections.abc import Iterator

WHY_NOT = container.missing()
pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))

BLOCK = re.compile(r"<!-- run: as root of a booted machine -->\n```console\n(.*?)^```$", re.DOTALL | re.MULTILINE)
INSTALLED = ("/opt/stoker", "/usr/local/bin/stoker", "/etc/sysusers.d", "/etc/tmpfiles.d", "/etc/stoker")
CLONE = "/root/stoker"  # of root, as most will have it: closed to the user of the service
LINKS = f"mkdir -p /opt/stoker/bin && ln -s {STOKERD} {STOKERD.with_name('stoker')} /opt/stoker/bin/"


@pytest.fixture
def machine() -> Iterator[Container]:
    """A booted machine without a trace of Stoker."""
    with Container() as booted:
        booted.run("rm", "-rf", *INSTALLED)
        booted.run("userdel", "stoker", check=False)
        open_programs(booted)
        booted.run("sh", "-ec", f"mkdir {CLONE}; chmod 700 {CLONE}; cp -r {REPOSITORY}/systemd {CLONE}")
        yield booted


def shown() -> list[tuple[str, str]]:
    """Each command of the block and the output under it."""
    (text,) = BLOCK.findall((REPOSITORY / "docs" / "operations.md").read_text())
    parts = re.split(r"^# ", text, flags=re.MULTILINE)[1:]
    return [(command, output) for command, _, output in (part.partition("\n") for part in parts)]


def test_install_when_the_document_is_followed_as_root_then_the_service_runs_jobs(machine: Container) -> None:
    commands = shown()
    assert "pip install" in commands[0][0]

    machine.run("sh", "-ec", LINKS)
    printed = [(machine.run("sh", "-ec", f"cd {CLONE}; {command}"), output.strip()) for command, output in commands[1:]]

    assert [seen for seen, expected in printed if expected] == [expected for _, expected in printed if expected]
    events = printed[-1][0].split()
    assert {'"daemon_ready"', '"job_succeeded"'} <= set(events)
    assert machine.run("systemctl", "show", "--property=NRestarts", "--value", "stoker.service") == "0"
    machine.run("systemctl", "reload", "stoker.service")
    until(lambda: "config_reloaded" in machine.run("journalctl", "-u", "stoker", "-o", "cat"))
