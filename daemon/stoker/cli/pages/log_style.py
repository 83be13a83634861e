"""The colours of a log (SGR, ECMA-48 8.3.117 and xterm's extensions) as classes of a small palette. Pure.

Owns the palette: eight hues, of which the style sheet knows a readable shade in light and in dark. Colours of 256 and
true colours become the nearest of them, so a log can make nothing unreadable.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Final, NamedTuple, Self

HUES: Final = ("black", "red", "green", "yellow", "blue", "magenta", "cyan", "white")
BRIGHT: Final = ("grey", *HUES[1:])
ON: Final = "on-"
MARKS: Final = {1: "bold", 2: "dim", 3: "italic", 4: "underline", 7: "inverse", 9: "strike", 21: "underline"}
CLEARED: Final = {22: ("bold", "dim"), 23: ("italic",), 24: ("underline",), 27: ("inverse",), 29: ("strike",)}
CUBE: Final = (0, 95, 135, 175, 215, 255)  # the six steps of each colour among the 256
LEAST_CHROMA: Final = 48  # below it, a colour is grey


class Style(NamedTuple):
    ink: str = ""
    ground: str = ""
    marks: frozenset[str] = frozenset()

    @property
    def names(self) -> list[str]:
        return [*filter(None, (self.ink, self.ground)), *sorted(self.marks)]

    @property
    def classes(self) -> str:
        return " ".join(self.names)

    @classmethod
    def named(cls, names: Sequence[str]) -> Self:
        """The opposite of `names`; unknown ones are left out."""
        inks = {*HUES, *BRIGHT}
        return cls(
            next((name for name in names if name in inks), ""),
            next((name for name in names if name.startswith(ON) and name.removeprefix(ON) in inks), ""),
            frozenset(name for name in names if name in MARKS.values()),
        )


PLAIN: Final = Style()


@lru_cache(maxsize=4096)
def restyled(style: Style, codes: str) -> Style:
    """The style after `ESC [ codes m`. What is unknown changes nothing."""
    parts = iter(codes.split(";"))
    for part in parts:
        number, *more = map(_number, part.split(":"))
        if number in (38, 48):
            name = _extended(more[0], more[-3:]) if more else _extended_of(parts)
            style = _painted(style, number == 48, name)  # noqa: PLR2004 - a code
        else:
            style = _changed(style, number, more)
    return style


def _number(text: str) -> int:
    return int(text or "0") if len(text) <= 3 else -1  # noqa: PLR2004 - digits of the largest code


def _changed(style: Style, code: int, more: list[int]) -> Style:
    if code == 0:
        return PLAIN
    if code in CLEARED or (code == 4 and more == [0]):  # noqa: PLR2004 - 4:0 is "no underline"
        return style._replace(marks=style.marks.difference(CLEARED.get(code, ("underline",))))
    if code in MARKS:
        return style._replace(marks=style.marks | {MARKS[code]})
    if code in (39, 49):
        return style._replace(ink="") if code == 39 else style._replace(ground="")  # noqa: PLR2004 - codes
    tens, hue = divmod(code, 10)
    if tens in (3, 4, 9, 10) and hue < len(HUES):
        return _painted(style, tens in (4, 10), (HUES if tens in (3, 4) else BRIGHT)[hue])
    return style


def _painted(style: Style, ground: bool, name: str | None) -> Style:  # noqa: FBT001 - which of the two
    if name is None:
        return style
    return style._replace(ground=ON + name) if ground else style._replace(ink=name)


def _extended_of(parts: Iterator[str]) -> str | None:
    """With semicolons, the values of a colour are the next codes."""
    kind = _number(next(parts, ""))
    return _extended(kind, [_number(next(parts, "")) for _ in range({2: 3, 5: 1}.get(kind, 0))])


def _extended(kind: int, values: list[int]) -> str | None:
    if kind == 5 and values:  # noqa: PLR2004 - one of 256
        return _indexed(values[-1])
    return nearest(*values) if kind == 2 and len(values) == 3 else None  # noqa: PLR2004 - red, green, blue


def _indexed(number: int) -> str | None:
    if 0 <= number < 16:  # noqa: PLR2004 - the first ones are the named colours
        return (*HUES, *BRIGHT)[number]
    if number < 232:  # noqa: PLR2004 - then a cube of six steps a side
        red, rest = divmod(number - 16, 36)
        return nearest(CUBE[red], *(CUBE[step] for step in divmod(rest, 6))) if number > 0 else None
    return nearest(*[8 + 10 * (number - 232)] * 3) if number < 256 else None  # noqa: PLR2004 - then greys


def nearest(red: int, green: int, blue: int) -> str:
    high, low = max(red, green, blue), min(red, green, blue)
    if high - low < LEAST_CHROMA:
        return "black" if high < 64 else "grey" if high < 160 else "white"  # noqa: PLR2004 - thirds of the scale
    middle = (high + low) / 2
    return HUES[(red > middle) + 2 * (green > middle) + 4 * (blue > middle)]
