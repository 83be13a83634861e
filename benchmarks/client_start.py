"""The cost of a submit in a shell loop: `stoker submit` as a whole process, against a Python that does nothing.

Measured in pairs, one after the other, so that a disturbance slows both. The idle Python has an empty environment:
hooks into the start of Python would slow it down, and flatter the ratio. The client has one in which `stoker` is found
by a directory, as after an ordinary installation: the import hook of an editable one costs a third of a bare start.
"""

from __future__ import annotations

import statistics
import subprocess
import sysconfig
import time
import venv
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.harness import Scale, daemon, workshop
from benchmarks.table import Row

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

PAIRS_A_ROUND = 10
SOURCE = Path(__file__).parents[1] / "daemon"
SCRIPT = """\
#!{python}
import sys
from stoker.cli.main import main
sys.exit(main())
"""


def rows(scale: Scale) -> Iterator[Row]:
    ours, theirs = [], []
    with workshop() as folder, daemon() as process:
        empty = str(_environment(Path(folder) / "empty") / "python")
        stoker = _installed(Path(folder) / "client")
        environ = {**process.environ, "STOKER_SOCKET": str(process.socket)}
        submit = [str(stoker), "submit", "--", "/bin/true"]
        for _ in range(scale.rounds * PAIRS_A_ROUND):
            theirs.append(_ms([empty, "-c", "pass"], environ))
            ours.append(_ms(submit, environ))
    figures = f"{statistics.median(ours):.0f} ms; python3 -c pass {statistics.median(theirs):.0f} ms"
    ratios = [our / their for our, their in zip(ours, theirs, strict=True)]
    rounds = [
        statistics.median(ratios[first : first + PAIRS_A_ROUND]) for first in range(0, len(ratios), PAIRS_A_ROUND)
    ]
    yield Row("`stoker submit`, whole process, against python3 -c pass", rounds, 3, 2, figures, unit="x")


def _environment(folder: Path) -> Path:
    """A new environment; gives the directory of its programs."""
    venv.create(folder)
    return folder / "bin"


def _installed(folder: Path) -> Path:
    """The program `stoker` of an environment that has it, as an installer writes it."""
    program = _environment(folder) / "stoker"
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    (packages / "stoker.pth").write_text(f"{SOURCE}\n")
    program.write_text(SCRIPT.format(python=folder / "bin" / "python"))
    program.chmod(0o755)
    return program


def _ms(command: Sequence[str], environ: Mapping[str, str]) -> float:
    begin = time.perf_counter()
    subprocess.run(command, env=environ, check=True, stdout=subprocess.DEVNULL)
    return (time.perf_counter() - begin) * 1e3
