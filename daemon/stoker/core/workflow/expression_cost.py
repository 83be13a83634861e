"""How long an expression may compute: a bound from the sizes of its values, asked before the library begins.

The library keeps the interpreter lock while it computes, so a long computation would hold up the daemon.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from stoker.core.workflow.expression_words import MACROS, Word, words_of

MOST_READ = 4 << 20  # characters, for each use of a text: some milliseconds
MOST_MATCHED = 32 << 10  # characters, for all regular expressions: a slow one takes 5 µs for each


def too_much(text: str, values: Mapping[str, Any]) -> str | None:
    """Why an expression with these values is not computed; None if it is."""
    words = words_of(text)
    signs = [word.text for word in words]
    rounds = max(_counts(words, values), default=1) if MACROS.intersection(signs) else 1
    read = max(map(len, _texts(words, values)), default=0) * rounds
    if read > MOST_READ:
        return f"its macros look at texts of {read} characters; the limit is {MOST_READ}"
    matched = read * signs.count("matches") * (1 + signs.count("+"))
    if matched > MOST_MATCHED:
        return f"its regular expressions look at {matched} characters; the limit is {MOST_MATCHED}"
    return None


def _counts(words: Sequence[Word], values: Mapping[str, Any]) -> Iterator[int]:
    """How many values a macro may look at: those that are written out, of a group, or the names of outputs."""
    yield 1 + sum(word.text == "," for word in words)
    for need in values["needs"].values():
        yield from map(len, (need, *map(_outputs, _ends(need))))


def _texts(words: Sequence[Word], values: Mapping[str, Any]) -> Iterator[str]:
    """The texts that it can look at; an output whose name it does not have only if it computes names."""
    named = {word.text for word in words}
    computes = "[" in named
    yield from (word.text for word in words if word.kind == "text")
    yield from values["parameters"].values()
    item = values["item"]
    yield from map(str, item.values() if isinstance(item, Mapping) else [item])
    for need in values["needs"].values():
        for end in _ends(need):
            yield from (value for name, value in _outputs(end).items() if computes or name in named)


def _ends(need: Any) -> Sequence[Mapping[str, Any]]:
    return need if isinstance(need, list) else [need]


def _outputs(end: Mapping[str, Any]) -> Mapping[str, str]:
    outputs: Mapping[str, str] = end["outputs"]
    return outputs
