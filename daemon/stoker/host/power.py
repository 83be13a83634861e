"""Reads the battery and the external power of the host from sysfs (Documentation/ABI/testing/sysfs-class-power).

The same files that psutil reads. But psutil takes the battery of a wireless mouse for one of the host, and a desktop
would then never be charging. sysfs reports no changes without udev, so the files are read from time to time.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from stoker.core.host_state import Battery
from stoker.core.shortage import OWN_SHORTAGES

SUPPLIES: Final = Path("/sys/class/power_supply")
# In the state of a battery, where no supply of its own says whether there is external power.
STATES: Final = {"Charging": True, "Full": True, "Not charging": True, "Discharging": False}


def read_battery(supplies: Path = SUPPLIES) -> Battery | None:
    """The battery of the host; None if it has none. Raises OSError, for example while no descriptor is left."""
    batteries, online = [], list[bool]()
    for supply in sorted(supplies.iterdir()) if supplies.is_dir() else ():
        kind, scope = _text(supply / "type"), _text(supply / "scope")
        if scope == "Device":  # of a mouse or a headset
            continue
        if kind == "Battery" and _text(supply / "present") != "0":
            batteries.append(supply)
        elif kind != "Battery" and (state := _text(supply / "online")) is not None:
            online.append(state != "0")
    if not batteries:
        return None
    percents = [float(text) for battery in batteries if (text := _text(battery / "capacity")) and text.isdecimal()]
    plugged = any(online) if online else _by_state([_text(battery / "status") for battery in batteries])
    return Battery(plugged, sum(percents) / len(percents) if percents else None)


def _by_state(states: list[str | None]) -> bool | None:
    plugged = [STATES[state] for state in states if state in STATES]
    return all(plugged) if plugged else None


def _text(file: Path) -> str | None:
    """None if the supply has no such file, or does not know."""
    try:
        return file.read_text("ascii", errors="replace").strip()
    except OSError as error:
        if error.errno in OWN_SHORTAGES:
            raise
        return None
