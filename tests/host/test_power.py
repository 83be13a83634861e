"""The battery, from directories that look like those of the kernel."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from stoker.core.host_state import Battery
from stoker.host.power import read_battery
from tests.support import strace
from tests.support.apart import run_apart

AC = {"type": "Mains", "online": "1"}
NO_AC = {"type": "Mains", "online": "0"}
USB = {"type": "USB", "online": "1"}
FULL = {"type": "Battery", "present": "1", "status": "Full", "capacity": "100"}
DRAINED = {"type": "Battery", "present": "1", "status": "Discharging", "capacity": "41"}
CHARGED = {"type": "Battery", "status": "Charging", "capacity": "20"}
SILENT = {"type": "Battery", "status": "Unknown"}
MOUSE = {"type": "Battery", "scope": "Device", "status": "Discharging", "capacity": "7"}
ABSENT = {"type": "Battery", "present": "0"}


@pytest.mark.parametrize(
    ("supplies", "battery"),
    [
        ([], None),
        ([AC], None),
        ([MOUSE], None),
        ([AC, ABSENT], None),
        ([NO_AC, DRAINED], Battery(plugged=False, percent=41)),
        ([NO_AC, DRAINED, MOUSE], Battery(plugged=False, percent=41)),
        ([AC, DRAINED], Battery(plugged=True, percent=41)),
        ([NO_AC, USB, DRAINED], Battery(plugged=True, percent=41)),
        ([CHARGED], Battery(plugged=True, percent=20)),
        ([CHARGED, DRAINED], Battery(plugged=False, percent=30.5)),
        ([FULL, CHARGED], Battery(plugged=True, percent=60)),
        ([SILENT], Battery(plugged=None, percent=None)),
    ],
)
def test_battery_when_the_host_has_these_supplies_then_it_is_read(
    tmp_path: Path, supplies: list[dict[str, str]], battery: Battery | None
) -> None:
    for number, files in enumerate(supplies):
        supply = tmp_path / f"S{number}"
        supply.mkdir()
        for name, text in files.items():
            (supply / name).write_text(f"{text}\n")

    assert read_battery(tmp_path) == battery


def test_battery_when_the_kernel_has_no_supplies_at_all_then_the_host_has_no_battery(tmp_path: Path) -> None:
    assert read_battery(tmp_path / "missing") is None


def is_unreadable(supplies: str) -> bool:
    try:
        read_battery(Path(supplies))
    except OSError as error:
        return error.errno == errno.EMFILE
    return False


@pytest.mark.skipif(strace.why_not() is not None, reason=str(strace.why_not()))
def test_battery_when_no_descriptor_is_left_then_it_is_not_taken_for_missing(tmp_path: Path) -> None:
    kind = tmp_path / "BAT0" / "type"
    kind.parent.mkdir()
    kind.write_text("Battery\n")

    assert run_apart(is_unreadable, str(tmp_path), fault="openat:error=EMFILE", path=kind)
