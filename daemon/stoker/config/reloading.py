"""Settings that a reload changes in a running daemon; all others need a restart.

Owns the closed list of live settings. The engine applies them. Invariant: a setting that needs a restart keeps its old
value in the merged Config, so the daemon never reports a setting that is not in force.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec
from msgspec.structs import replace

from stoker.config.loading import find, load
from stoker.config.settings import SECTIONS, Config
from stoker.core.errors import ConfigInvalid

if TYPE_CHECKING:
    from stoker.core.daemon_views import SettingsView

# Sections whose keys are all live, and single live keys of others.
LIVE_SECTIONS: Final = frozenset(
    {"retry", "idle", "memory", "psi", "access", "quotas", "privacy", "jobs", "checkpoints", "workflows", "retention"}
    | {"backup"}
)
LIVE_KEYS: Final = frozenset(
    {
        ("daemon", "max_running"),
        ("recovery", "survive"),
        ("recovery", "max_orphanings"),
        ("cpu", "throttle_threshold"),
        ("cpu", "resume_threshold"),
        ("cpu", "smoothing"),
        ("log", "level"),
        ("journal", "keep_bytes"),
    }
)


WHOLE_TABLES: Final = ("schedules", "hooks")  # a section that is taken out of the file is removed
NESTED_TABLES: Final = ("retention_queues", "retention_workflows", "quotas_users")
TABLES: Final = ("queues", "rates", "schedules", "hooks", *NESTED_TABLES)  # live as a whole


class Reloaded(NamedTuple):
    """`config` is in force from now on; `changed` and `restart` name keys as `section.key`, queues as `queues.name`."""

    config: Config
    changed: list[str]
    restart: list[str]


def compare(running: Config, path: Path | None, environ: Mapping[str, str]) -> SettingsView:
    """The settings in force, and how those of the file and the environment differ from them."""
    file, mistakes = find(path, environ), list[str]()
    differing = Reloaded(running, [], [])
    try:
        differing = merge_live(running, load(file, environ, again=True))
    except ConfigInvalid as error:
        mistakes = error.details["errors"]
    return {
        "file": None if file is None else str(file),
        "in_force": msgspec.to_builtins(running),
        "reload": differing.changed,
        "restart": differing.restart,
        "mistakes": mistakes,
    }


def in_force(view: SettingsView) -> Config:
    """The settings that `compare` was given."""
    return msgspec.convert(view["in_force"], Config)


def merge_live(running: Config, asked: Config) -> Reloaded:
    """`running` with every live setting of `asked`. A queue that the file no longer names stays as it is."""
    changed, restart, sections = [], [], dict[str, Any]()
    for name in SECTIONS:
        before, after = getattr(running, name), getattr(asked, name)
        differing = [key for key, value in msgspec.structs.asdict(after).items() if value != getattr(before, key)]
        live = [key for key in differing if name in LIVE_SECTIONS or (name, key) in LIVE_KEYS]
        changed += [f"{name}.{key}" for key in live]
        restart += [f"{name}.{key}" for key in differing if key not in live]
        sections[name] = replace(before, **{key: getattr(after, key) for key in live})
    changed += [f"queues.{name}" for name, queue in asked.queues.items() if queue != running.queues.get(name)]
    changed += [f"rates.{key}" for key, rate in asked.rates.items() if rate != running.rates.get(key)]
    for table in WHOLE_TABLES:
        before, after = getattr(running, table), getattr(asked, table)
        names = sorted(after.keys() | before.keys())
        changed += [f"{table}.{name}" for name in names if after.get(name) != before.get(name)]
    tables: dict[str, Any] = {name: getattr(asked, name) for name in TABLES}
    changed += [name.replace("_", ".") for name in NESTED_TABLES if tables[name] != getattr(running, name)]
    return Reloaded(Config(**sections, **tables), changed, restart)
