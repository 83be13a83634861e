"""Jobs that wait until the host is idle or charging: what it is counts at the moment when nothing else blocks them.

The daemon is shown a CPU at rest, a battery, and a logind on a real bus. Owns the promises of a running daemon; when
the host is idle is in tests/core.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from stoker.core.clock import wall_ms
from tests.support import container
from tests.support.container import Container
from tests.support.daemon import BIN, DaemonProcess
from tests.support.facts import until
from tests.support.load import ShownProc, burning
from tests.support.session_bus import bus, logind, needs_bus
from tests.support.work import changes, end_of, shell, state, submit

if TYPE_CHECKING:
    from collections.abc import Iterator

    import stoker
    from tests.support.work import Gate

OK = ("succeeded", "exit")
SETTINGS = """
[cpu]
sample_ms = 100
smoothing = 1.0
[idle]
cpu_percent = 90
for_ms = 300
"""
NO_INPUT = f"{SETTINGS}input = false\n"
NO_BUS = {"DBUS_SYSTEM_BUS_ADDRESS": "unix:path=/nonexistent"}
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


def awaiting(client: stoker.Client, tree: Any, **options: Any) -> int:
    return submit(client, shell("exit 0", wait_for=tree, **options))


def why_with(client: stoker.Client, job: int, words: str) -> None:
    until(lambda: words in client.why(job)["message"], why=f"{words!r} in: {client.why(job)['message']}")


def holds(client: stoker.Client, fact: str) -> bool:
    return bool(client.call("system.status")["host"][fact]["holds"])


@pytest.fixture
def shown(tmp_path: Path) -> ShownProc:
    return ShownProc(tmp_path)


@pytest.fixture
def resting(shown: ShownProc) -> Iterator[DaemonProcess]:
    with DaemonProcess(NO_INPUT, NO_BUS, shown.programs()) as daemon:
        yield daemon


class Supplies:
    """The power supplies that the daemons of a directory of programs see."""

    def __init__(self, home: Path) -> None:
        self._at = home / "supplies"
        for name, files in {"AC0": {"type": "Mains"}, "BAT0": {"type": "Battery", "capacity": "41"}}.items():
            (self._at / name).mkdir(parents=True)
            for file, text in files.items():
                (self._at / name / file).write_text(text)
        self.plug(on=False)

    def plug(self, *, on: bool) -> None:
        new = self._at / "AC0" / "new"
        new.write_text(f"{int(on)}\n")
        new.rename(self._at / "AC0" / "online")

    def programs(self) -> Path:
        program = self._at.parent / "stokerd"
        script = f'mount --bind {shlex.quote(str(self._at))} /sys/class/power_supply && exec {BIN}/stokerd "$@"'
        program.write_text(f'#!/bin/sh\nexec unshare --mount sh -c {shlex.quote(script)} sh "$@"\n')
        program.chmod(0o755)
        return program.parent


def test_idle_when_the_cpu_is_busy_then_the_job_waits_until_it_rests(shown: ShownProc) -> None:
    with DaemonProcess(SETTINGS, NO_BUS, shown.programs()) as daemon, daemon.client() as client, burning():
        shown.real()
        until(lambda: client.status()["pressure"]["levels"].get("cpu", 0) > 90)
        job = awaiting(client, "idle")
        why_with(client, job, "must be below 90 % for 0.30s; CPU alone decides: this host has no D-Bus")
        assert client.why(job)["code"] == "idle"
        assert not holds(client, "idle")

        shown.at_rest()

        assert end_of(client, job) == OK
        assert holds(client, "idle")


def test_idle_when_an_event_comes_while_the_host_is_busy_then_the_job_waits_on(
    shown: ShownProc, resting: DaemonProcess
) -> None:
    with resting.client() as client:
        until(lambda: holds(client, "idle"))
        job = awaiting(client, {"all": ["idle", "event:go"]})
        assert state(client, job) == "waiting"
        with burning():
            shown.real()
            until(lambda: not holds(client, "idle"))
            client.call("event.emit", {"name": "go"})
            why_with(client, job, "for idle: CPU")
            assert state(client, job) == "waiting"

            shown.at_rest()

            assert end_of(client, job) == OK


def test_idle_when_all_else_is_met_while_it_holds_then_the_job_starts(resting: DaemonProcess, gate: Gate) -> None:
    with resting.client() as client:
        until(lambda: holds(client, "idle"))
        first = submit(client, gate.spec())
        needs = awaiting(client, "idle", needs=[{"job": first, "on": "any"}])
        held = awaiting(client, {"all": ["idle", "event:later"]})
        client.call("job.hold", {"id": held})
        client.call("event.emit", {"name": "later"})
        run_at = wall_ms() + 1_500
        later = awaiting(client, "idle", run_at=run_at)
        assert [state(client, job) for job in (needs, held)] == ["waiting", "held"]

        assert end_of(client, later) == OK
        assert changes(client, later, "dispatched")[0]["at"] >= run_at
        client.call("job.release", {"id": held})
        assert end_of(client, held) == OK
        assert state(client, needs) == "waiting"
        gate.open()
        assert end_of(client, needs) == OK


def test_idle_when_a_daemon_starts_again_then_the_jobs_still_wait_for_it(resting: DaemonProcess) -> None:
    with resting.client() as client:
        client.call("queue.pause", {"name": "default"})
        until(lambda: holds(client, "idle"))
        job, other = awaiting(client, {"all": ["idle", "event:go"]}), awaiting(client, {"any": ["idle", "event:go"]})
        until(lambda: state(client, other) == "queued")
    resting.config.write_text(NO_INPUT.replace("90", "0"))
    resting.kill_and_start()

    with resting.client() as client:
        client.call("event.emit", {"name": "go"})
        why_with(client, job, "must be below 0 %")
        resting.config.write_text(NO_INPUT)
        assert "idle.cpu_percent" in client.call("system.reload", {})["changed"]
        until(lambda: state(client, job) == "queued")


@needs_bus
async def test_idle_when_the_sessions_are_in_use_then_the_job_waits_for_logind(shown: ShownProc) -> None:
    with bus() as address:
        async with logind(address, idle=False) as login:
            environ = {"DBUS_SYSTEM_BUS_ADDRESS": address}
            daemon = DaemonProcess(SETTINGS, environ, shown.programs())
            await asyncio.to_thread(daemon.start)
            try:
                client = daemon.client()
                job = await asyncio.to_thread(awaiting, client, "idle")
                await asyncio.to_thread(why_with, client, job, "its sessions are in use")
                login.be(idle=True)
                assert await asyncio.to_thread(end_of, client, job) == OK
                login.be(idle=False)
                await asyncio.to_thread(until, lambda: not holds(client, "idle"))
                client.close()
            finally:
                await asyncio.to_thread(daemon.end)


LOGIN = "org.freedesktop.login1"
DESKTOP = ("-p", "PAMName=login", "-p", "User=root", "-E", "XDG_SESSION_TYPE=x11")
NO_LOGIND = container.missing() or (None if any(Path("/lib").glob("*/security/pam_systemd.so")) else "no pam_systemd")


@pytest.mark.skipif(NO_LOGIND is not None, reason=str(NO_LOGIND))
def test_idle_when_a_real_logind_has_a_desktop_then_the_job_waits_until_it_is_idle(shown: ShownProc) -> None:
    """The daemon is outside of the machine with that logind, and talks to its bus."""
    with Container() as machine:
        machine.run("systemd-run", *DESKTOP, "sleep", "1000")
        session, *_ = until(lambda: machine.run("loginctl", "list-sessions", "--no-legend").split())
        manager = ("/org/freedesktop/login1", f"{LOGIN}.Manager")
        path = machine.run("busctl", "call", LOGIN, *manager, "GetSession", "s", session).split('"')[1]
        environ = {"DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={machine.root}/run/dbus/system_bus_socket"}
        with DaemonProcess(SETTINGS, environ, shown.programs()) as daemon, daemon.client() as client:
            job = awaiting(client, "idle")
            why_with(client, job, "its sessions are in use")

            machine.run("busctl", "call", LOGIN, path, f"{LOGIN}.Session", "SetIdleHint", "b", "true")

            assert end_of(client, job) == OK


@needs_root
def test_charging_when_the_host_runs_on_battery_then_the_job_waits_for_the_plug(tmp_path: Path) -> None:
    supplies = Supplies(tmp_path)
    with DaemonProcess(SETTINGS, NO_BUS, supplies.programs()) as daemon, daemon.client() as client:
        job = awaiting(client, "charging")
        why_with(client, job, "running on battery, 41 %")
        assert (client.why(job)["code"], state(client, job)) == ("charging", "waiting")
        assert not holds(client, "charging")

        supplies.plug(on=True)

        assert end_of(client, job) == OK
        assert client.status()["host"]["charging"] == {"holds": True, "words": "on external power, 41 %"}


def test_charging_when_the_host_has_no_battery_then_it_counts_as_charging(client: stoker.Client) -> None:
    if subprocess.run(
        ["sh", "-c", "grep -l Battery /sys/class/power_supply/*/type"], capture_output=True, check=False
    ).stdout:
        pytest.skip("this host has a battery")

    assert end_of(client, awaiting(client, "charging")) == OK
