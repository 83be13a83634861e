"""The load of the last hour as charts: CPU, memory, slots, and the jobs of each queue.

Owns the way from the samples of `system.load` to the charts. A sample holds until the next one; where the daemon or the
host was off there is none, and the chart has a gap.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from stoker.cli.pages.charts import KINDS, Chart, Plateau, Series, chart

if TYPE_CHECKING:
    from stoker.core.overview_views import LoadSample, LoadView

HOUR_MS: Final = 3_600_000
GIB: Final = 1024**3


class LoadCharts:
    """The charts of one answer, for the last hour. It ends at a whole interval: until the next one the page is the
    same, and is not sent again."""

    def __init__(self, load: LoadView) -> None:
        self._step = load["interval_ms"]
        self._samples = load["samples"]
        self._end = -(-time.time_ns() // 1_000_000 // self._step) * self._step

    def host(self) -> list[Chart]:
        """Those of the overview."""
        return [
            self._chart("CPU", [("now", lambda one: one["cpu"])], unit="%", top=100, marked=self._throttled()),
            self._chart("Free memory", [("now", _free_gib)], unit=" GiB"),
            self._chart("Slots", [("in use", lambda one: one["running"]), ("of", lambda one: one["slots"])]),
            self._chart("Queued jobs", [("now", lambda one: sum(queue["queued"] for queue in one["queues"]))]),
        ]

    def queue(self, name: str) -> Chart:
        """The jobs of one queue."""
        return self._chart(
            name,
            [("running", lambda one: _jobs(one, name)[0]), ("queued", lambda one: _jobs(one, name)[1])],
        )

    def _chart(
        self,
        title: str,
        parts: Sequence[tuple[str, Callable[[LoadSample], float | None]]],
        *,
        unit: str = "",
        top: float | None = None,
        marked: Iterable[Plateau] = (),
    ) -> Chart:
        series = [
            Series(name, list(self._plateaus(value)), kind) for (name, value), kind in zip(parts, KINDS, strict=False)
        ]
        return chart(title, series, self._end - HOUR_MS, self._end, top=top, unit=unit, marked=marked)

    def _throttled(self) -> Iterator[Plateau]:
        return self._plateaus(lambda one: float(one["throttled"]))

    def _plateaus(self, value: Callable[[LoadSample], float | None]) -> Iterator[Plateau]:
        ends = [*(one["since"] for one in self._samples), self._end][1:]
        for one, following in zip(self._samples, ends, strict=True):
            measured = value(one)
            if measured is not None:
                joins = following - one["until"] <= 2 * self._step
                yield Plateau(one["since"], following if joins else one["until"] + self._step, measured)


def _free_gib(sample: LoadSample) -> float | None:
    free = sample["memory_free_bytes"]
    return None if free is None else free / GIB


def _jobs(sample: LoadSample, queue: str) -> tuple[int, int]:
    """Running and queued; a queue without jobs is in no sample."""
    found = next((one for one in sample["queues"] if one["queue"] == queue), None)
    return (0, 0) if found is None else (found["running"], found["queued"])
