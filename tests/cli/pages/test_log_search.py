"""A search in a log: the same lines, however the bytes arrive."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stoker.cli.pages.log_search import MOST_HELD, LogSearch, Match
from stoker.cli.pages.log_text import plain

LINES = st.lists(st.sampled_from([b"", b"a", b"Needle", b"x needle y", b"\x1b[31mnee\x1b[0mdle", b"need", b"le"]))


def found_in(text: str, *pieces: bytes) -> list[Match]:
    search = LogSearch(text)
    return [match for piece in pieces for match in search.feed(piece)] + list(search.finish())


@given(LINES, st.integers(1, 50))
def test_search_when_a_log_comes_in_pieces_then_it_finds_each_line_with_its_number(
    lines: list[bytes], size: int
) -> None:
    log = b"\n".join(lines)
    pieces = [log[at : at + size] for at in range(0, len(log), size)]

    found = found_in("needle", *pieces)

    texts = [plain(line) for line in log.removesuffix(b"\n").split(b"\n")]
    wanted = [index for index, text in enumerate(texts) if "needle" in text.lower()]
    assert [match.number for match in found] == [index + 1 for index in wanted]
    assert [match.left + match.found + match.right for match in found] == [texts[index] for index in wanted]
    assert [match.offset for match in found] == [sum(len(line) + 1 for line in lines[:index]) for index in wanted]
    assert [match.before for match in found] == [texts[max(0, index - 2) : index] for index in wanted]
    assert [match.after for match in found] == [texts[index + 1 : index + 3] for index in wanted]


def test_search_when_a_line_has_no_end_then_it_is_searched_in_parts_and_all_of_it() -> None:
    chunk = b"x" * (MOST_HELD // 4 + 1)

    found = found_in("needle", *[chunk] * 7, b"nee", b"dle", *[chunk] * 5, b"\nneedle\n")

    assert [match.number for match in found] == [1, 2]


def test_search_when_bytes_were_dropped_then_no_text_is_found_across_the_gap() -> None:
    search = LogSearch("needle")

    found = [*search.feed(b"a\nnee"), *search.hole(1000), *search.feed(b"dle\nneedle\n"), *search.finish()]

    assert [match.offset for match in found] == [2 + 3 + 1000 + 4]
