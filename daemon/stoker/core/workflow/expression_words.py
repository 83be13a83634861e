"""The words of an expression in CEL, as the library reads them, and which macros stand in others.

Invariant: what the library takes for code is never a part of a text here, so no name and no macro can be hidden in one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

MACROS = frozenset({"all", "exists", "exists_one", "filter"})
_WORDS = re.compile(
    r"""
    (?P<space>  \s++ | //[^\n]*+ )
  | (?P<text>   [bB]?[rR](?:\"{3}.*?\"{3} | '{3}.*?'{3} | "[^"\n]*+" | '[^'\n]*+')
              | [bB]?(?:\"{3}(?:[^\\]|\\.)*?\"{3} | '{3}(?:[^\\]|\\.)*?'{3})
              | [bB]?(?:"(?:[^"\\\n]|\\.)*+" | '(?:[^'\\\n]|\\.)*+') )
  | (?P<name>   [A-Za-z_][A-Za-z0-9_]*+ )
  | (?P<number> [0-9][0-9A-Za-z]*+ (?:\.[0-9]++)? )
  | (?P<sign>   . )
    """,
    re.VERBOSE | re.DOTALL,
)


class Word(NamedTuple):
    kind: str
    text: str
    at: int


def words_of(text: str) -> list[Word]:
    found = (Word(match.lastgroup or "", match.group(), match.start()) for match in _WORDS.finditer(text))
    return [word for word in found if word.kind != "space"]


def inner_macros(words: Sequence[Word]) -> Iterator[Word]:
    """The macros in the brackets of another one. `[a + a].exists(b, [b + b].exists(c, …))` doubles a text each time."""
    in_macro: list[bool] = []  # of each open bracket, whether it is that of a macro
    for before, word in pairwise(words):
        if word.text in ("(", "[", "{"):
            in_macro.append(word.text == "(" and before.text in MACROS)
            if in_macro[-1] and any(in_macro[:-1]):
                yield before
        elif word.text in (")", "]", "}") and in_macro:
            in_macro.pop()
