"""`stoker config`: check, show, path, reload. Without a daemon all but reload read files and environment.

Owns how settings are shown; `stoker.config` decides what is valid.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

from stoker import config, paths
from stoker.cli.kit import render
from stoker.cli.kit.connection import call
from stoker.cli.kit.parser import JSON, STATE_DIR, Command, Given, Option
from stoker.core.errors import ConfigInvalid, DaemonUnreachable, PermissionDenied, UsageError
from stoker.core.units import counted

if TYPE_CHECKING:
    from stoker.core.daemon_views import ReloadedView, SettingsView

CONFIG = Option("--config", "FILE", "the settings file (default: see `stoker config path`)")


def _file(given: Given) -> Path | None:
    chosen = next(iter(given["words"]), None) if given["config"] is None else given["config"]
    return None if chosen is None else Path(chosen).absolute()


@Command(
    words="[FILE]",
    options=(CONFIG, JSON),
    examples=("stoker config check", "stoker config check ./stoker.toml && systemctl restart stoker"),
)
def check(given: Given) -> None:
    file = config.find(_file(given), os.environ)
    try:
        config.check(file, os.environ)
    except ConfigInvalid as error:
        error.hint = "stoker config show --config /dev/null lists every key with its default"
        raise
    if given["json"]:
        render.json_document({"config": file and str(file), "ok": True})
    else:
        render.line(f"{file}: ok" if file else "no settings file, only defaults and environment: ok")


@Command(options=(CONFIG, JSON), examples=("stoker config show", "stoker config show --config ./stoker.toml"))
def show(given: Given) -> None:
    """Those of the running daemon. With --config, or if no daemon answers, those of the file and of the environment."""
    view = _of_daemon(given) if given["config"] is None else None
    if view is None:
        settings, remarks = config.load(_file(given), os.environ), {}
    else:
        settings, remarks = config.in_force(view), _remarks(view)
    text = config.describe(settings, remarks)
    if given["json"]:
        render.json_document(tomllib.loads(text))
    else:
        render.line(text.rstrip("\n"))
    render.flush()
    if view is not None:
        _explain_differences(view)


def _of_daemon(given: Given) -> SettingsView | None:
    try:
        view: SettingsView = call(given, "system.settings", {})
    except (DaemonUnreachable, PermissionDenied) as error:
        file = config.find(None, os.environ)
        where = f"{file} and the environment here" if file else "the environment here and the defaults"
        render.note(f"{error.message}; these settings come from {where}; no daemon uses them")
        return None
    return view


def _remarks(view: SettingsView) -> dict[str, str]:
    reloads = dict.fromkeys(view["reload"], "[in force; the file differs: stoker config reload]")
    return reloads | dict.fromkeys(view["restart"], "[in force; the file differs: restart stokerd]")


def _explain_differences(view: SettingsView) -> None:
    """Say on stderr how the file differs from what is in force."""
    file = view["file"] or "the environment of stokerd"
    if view["mistakes"]:
        render.note(f"{file} now has {counted(len(view['mistakes']), 'mistake')}, so a restart would fail")
        render.hint(f"stoker config check {file}")
    for names, command in ((view["reload"], "stoker config reload"), (view["restart"], "restart stokerd")):
        if names:
            render.note(f"not yet in force of {file}: {', '.join(names)}")
            render.hint(command)


@Command(
    options=(CONFIG, STATE_DIR, JSON),
    examples=("stoker config path",),
)
def path(given: Given) -> None:
    chosen = _file(given)
    if chosen is not None and not chosen.is_file():
        raise UsageError(f"no file {chosen}")
    file = config.find(chosen, os.environ)
    candidates = [str(candidate) for candidate in paths.config_files(os.environ)]
    state_dir = str(paths.state_dir(given["state_dir"], os.environ, os.getuid()))
    socket = paths.first_within_reach(paths.socket_paths(given["socket"], os.environ, os.getuid()), os.path.exists)
    if given["json"]:
        render.json_document(
            {"config": file and str(file), "candidates": candidates, "state_dir": state_dir, "socket": socket}
        )
    else:
        used = file or "no file: every setting has its default"
        searched = ", ".join(candidates)
        render.facts([("config", used), ("searched", searched), ("state dir", state_dir), ("socket", socket)])


@Command(options=(JSON,), examples=("stoker config check && stoker config reload",))
def reload(given: Given) -> None:
    answer: ReloadedView = call(given, "system.reload", {})
    if given["json"]:
        render.json_document(answer)
        return
    render.line(f"changed: {', '.join(answer['changed']) or 'nothing'}")
    if answer["restart"]:
        render.note(f"these settings need a restart of stokerd: {', '.join(answer['restart'])}")
