"""Parts of the standard library without the imports that they cost: the program on a node starts once for each job.

`signal` is the module in C below the one of that name, which makes enums of its numbers (2 ms); `suppress` is as in
`contextlib`, which imports `collections` and `functools` (2 ms). An empty Python starts in 8 ms.
"""

from __future__ import annotations

TYPE_CHECKING = False  # `typing` alone costs 5 ms

if TYPE_CHECKING:
    import signal
    from types import TracebackType
else:
    import _signal as signal

__all__ = ["signal", "suppress"]


class suppress:  # noqa: N801 - as it is called there
    """Passes over these errors."""

    __slots__ = ("_errors",)

    def __init__(self, *errors: type[BaseException]) -> None:
        self._errors = errors

    def __enter__(self) -> None:
        """Nothing to do."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> bool:
        return kind is not None and issubclass(kind, self._errors)
