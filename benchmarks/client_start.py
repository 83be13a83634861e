"""The cost of a submit in a shell loop: `stoker submit` as a whole process, against a Python that does nothing.

Measured in pairs, one after the other, so that a disturbance slows both. The idle Python has an empty environment:
hooks into the start of Python would slow it down, and flatter the ratio.
"""

from __future__ import annotations

import statistics
import subprocess
import time
import venv
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.harness import Scale, daemon, workshop
from benchmarks.table import Row
from tests.support.daemon import BIN

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

PAIRS_A_ROUND = 10


def rows(scale: Scale) -> Iterator[Row]:
    ours, theirs = [], []
    with workshop() as folder, daemon() as process:
        venv.create(folder)
        empty = str(Path(folder) / "bin" / "python")
        environ = {**process.environ, "STOKER_SOCKET": str(process.socket)}
        submit = [str(BIN / "stoker"), "submit", "--", "/bin/true"]
        for _ in range(scale.rounds * PAIRS_A_ROUND):
            theirs.append(_ms([empty, "-c", "pass"], environ))
            ours.append(_ms(submit, environ))
    figures = f"{statistics.median(ours):.0f} ms; python3 -c pass {statistics.median(theirs):.0f} ms"
    ratios = [our / their for our, their in zip(ours, theirs, strict=True)]
    rounds = [
        statistics.median(ratios[first : first + PAIRS_A_ROUND]) for first in range(0, len(ratios), PAIRS_A_ROUND)
    ]
    yield Row("`stoker submit`, whole process, against python3 -c pass", rounds, 4, 3, figures, unit="x")


def _ms(command: Sequence[str], environ: Mapping[str, str]) -> float:
    begin = time.perf_counter()
    subprocess.run(command, env=environ, check=True, stdout=subprocess.DEVNULL)
    return (time.perf_counter() - begin) * 1e3
