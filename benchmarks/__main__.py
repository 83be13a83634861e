"""`python -m benchmarks`: measure every budget, or those named, and print one table.

Owns the order and the names of the benchmarks. A missed budget is no failure: numbers depend on the machine and its
load. The table shows what was reached.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from typing import TYPE_CHECKING

from benchmarks import (
    backup,
    breadth,
    client_start,
    cluster,
    cost,
    crowd,
    depth,
    doctor,
    events,
    footprint,
    hooks,
    hostile,
    journal,
    latency,
    lists,
    peers,
    purge,
    recovery,
    schedules,
    soak,
    submits,
    table,
    throughput,
    web,
    workflows,
)
from benchmarks.harness import FULL, QUICK, Scale

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BENCHMARKS: dict[str, Callable[[Scale], Iterator[table.Row]]] = {
    "cost": cost.rows,
    "throughput": throughput.rows,
    "submits": submits.rows,
    "latency": latency.rows,
    "hostile": hostile.rows,
    "crowd": crowd.rows,
    "footprint": footprint.rows,
    "client": client_start.rows,
    "depth": depth.rows,
    "breadth": breadth.rows,
    "recovery": recovery.rows,
    "workflows": workflows.rows,
    "schedules": schedules.rows,
    "events": events.rows,
    "hooks": hooks.rows,
    "lists": lists.rows,
    "purge": purge.rows,
    "backup": backup.rows,
    "doctor": doctor.rows,
    "journal": journal.rows,
    "web": web.rows,
    "cluster": cluster.rows,
    "soak": soak.rows,
    "peers": peers.rows,
}
ON_REQUEST = {"soak", "peers"}  # one is long, the other measures programs that must be fetched first


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench", description="Measure the budgets as ratios in one run.")
    parser.add_argument("--only", choices=BENCHMARKS, action="append", help="measure this one (repeatable)")
    parser.add_argument("--quick", action="store_true", help="a few jobs only: shows that it runs, not what it says")
    given = parser.parse_args()
    rows: list[table.Row] = []
    for name in given.only or [name for name in BENCHMARKS if name not in ON_REQUEST]:
        print(f"measuring {name} ...", file=sys.stderr, flush=True)
        rows += BENCHMARKS[name](QUICK if given.quick else FULL)
    print(
        f"\n{platform.machine()}, {os.cpu_count()} CPUs, Linux {platform.release()}, Python {platform.python_version()}"
    )
    print("\n".join(table.lines(rows)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
