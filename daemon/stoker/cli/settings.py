"""`stoker config`: check, show, path, reload. All but reload work without a daemon, from files and environment.

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
from stoker.cli.kit.parser import JSON, Command, Given, Option
from stoker.core.errors import ConfigInvalid, UsageError

if TYPE_CHECKING:
    from stoker.core.daemon_views import ReloadedView

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
        config.load(file, os.environ)
    except ConfigInvalid as error:
        error.hint = error.hint or "stoker config show lists every key"
        raise
    if given["json"]:
        render.json_document({"config": file and str(file), "ok": True})
    else:
        render.line(f"{file}: ok" if file else "no settings file, only defaults and environment: ok")


@Command(options=(CONFIG, JSON), examples=("stoker config show", "stoker config show --config ./stoker.toml"))
def show(given: Given) -> None:
    settings = config.load(_file(given), os.environ)
    if given["json"]:
        render.json_document(tomllib.loads(config.describe(settings)))
    else:
        render.line(config.describe(settings).rstrip("\n"))


@Command(
    options=(CONFIG, Option("--state-dir", "DIR", "the state directory, as given to stokerd"), JSON),
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
