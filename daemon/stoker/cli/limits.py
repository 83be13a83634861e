"""The limits of users, and how much of each is in use.

Owns `stoker limits`, and the table of `stoker status --users`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stoker.cli.kit import render, table
from stoker.cli.kit.connection import call
from stoker.cli.kit.parser import JSON, Command, Given
from stoker.core.quota_words import COUNTED
from stoker.files import user_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stoker.core.quota_views import LimitsView, UserLimit, UserView


SHARES = ("max_workflows", "max_schedules", "max_stored_bytes", "max_log_bytes")


@Command(options=(JSON,), examples=("stoker limits",))
def limits(given: Given) -> None:
    """An administrator sets these limits in [quotas] and [rpc] of the settings file."""
    answer: LimitsView = call(given, "system.limits", {})
    if given["json"]:
        render.json_document(answer)
        return
    render.facts([("user", f"{user_name(answer['uid'])}, {answer['role']}")])
    render.line()
    rows = [(one["name"], *_amounts(one), COUNTED.get(one["name"], "")) for one in answer["limits"]]
    table.show(("LIMIT", "USED", "AT MOST", "OF"), rows, whole=True)


def print_users(users: Sequence[UserView]) -> None:
    headers = (
        "USER",
        "RUNNING",
        "QUEUED",
        "WAITING",
        "HELD",
        "MAX RUNNING",
        "MAX QUEUED",
        "WORKFLOWS",
        "SCHEDULES",
        "STORED",
        "LOGS",
    )
    table.show(headers, [_row(user) for user in users], whole=True)


def _row(user: UserView) -> tuple[object, ...]:
    by_name = {one["name"]: one for one in user["limits"]}
    counts = (user["running"], user["queued"], user["waiting"], user["held"])
    bounds = (_amounts(by_name[name])[1] for name in ("max_running", "max_queued"))
    return (user_name(user["uid"]), *counts, *bounds, *(_share(by_name[name]) for name in SHARES))


def _share(one: UserLimit) -> str:
    """`3`, or `3 of 10`."""
    used, most = _amounts(one)
    return used if one["limit"] is None else f"{used} of {most}"


def _amounts(one: UserLimit) -> tuple[str, str]:
    """The use and the limit; `-` for one that is not measured, or not set."""
    is_size = one["name"].endswith("_bytes")
    shown = (
        "-" if value is None else render.size(value) if is_size else str(value) for value in (one["used"], one["limit"])
    )
    used, most = shown
    return used, most
