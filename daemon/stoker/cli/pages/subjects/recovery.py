"""The findings and actions of each start of the daemon, the launchers, and the backups.

Owns two pages: the list of starts, and the report of one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from stoker.cli import recovery as recovery_words
from stoker.cli.pages.page import Asked, Page
from stoker.cli.pages.subjects.notices import steady_facts
from stoker.rpc.async_client import AsyncClient

STARTS: Final = 25
DECISIONS: Final = 100
MOST_BACKUPS: Final = 50


async def read(client: AsyncClient, asked: Asked) -> Mapping[str, Any]:
    before = asked.optional_number("before")
    status, page, backups = await asyncio.gather(
        client.call("system.status"),
        client.call("recovery.list", limit=STARTS, **({} if before is None else {"before": before})),
        client.call("system.backups"),
    )
    facts = steady_facts(status)
    return {
        "launchers": status["launchers"],
        "facts": facts,
        "starts": page["recoveries"],
        "counts": recovery_words.COUNTS,
        "next": page["next"],
        "backups": backups["backups"][:MOST_BACKUPS],
        "backup_count": len(backups["backups"]),
        "directory": backups["directory"],
    }


async def read_report(client: AsyncClient, asked: Asked) -> Mapping[str, Any]:
    after = asked.optional_number("after") or 0
    report = await client.call("recovery.get", epoch=asked.number("epoch"), after=after, limit=DECISIONS)
    return {"report": report, "counts": recovery_words.COUNTS}


PAGES = (
    Page("/recovery", "recovery.html", read, every_s=5.0),
    Page("/recovery/{epoch}", "recovery_report.html", read_report, every_s=5.0),
)
