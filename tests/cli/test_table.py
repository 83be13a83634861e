"""Tables: alignment, and what gives way on a narrow terminal."""

from __future__ import annotations

from stoker.cli.kit import table

HEADERS = ("ID", "STATE", "QUEUE", "PRIO", "JOB")
ROW = (7, "running", "default", 0, "make --directory=/srv/build all")


def test_table_when_columns_hold_numbers_then_they_stand_right_and_text_left() -> None:
    lines = table.lines(("ID", "NAME", "JOB"), [(7, "a", "x"), (123, "bcd", "y")], 80)

    assert lines == [" ID  NAME  JOB", "  7  a     x", "123  bcd   y"]


def test_table_when_the_terminal_is_narrow_then_the_last_column_is_cut() -> None:
    lines = table.lines(("ID", "JOB"), [(1, "x" * 100)], 20)

    assert max(map(len, lines)) == 20
    assert lines[1].endswith("x…")


def test_table_when_it_is_empty_then_the_head_stands_alone() -> None:
    assert table.lines(("ID", "JOB"), [], 80) == ["ID  JOB"]


def test_table_when_a_cell_has_escapes_then_they_are_spelled_out() -> None:
    assert table.lines(("JOB",), [("\x1b[31mred\n",)], 80)[1] == "^[[31mred^J"


def test_table_when_the_terminal_is_narrow_then_spare_columns_go_in_order() -> None:
    def heads(columns: int) -> list[str]:
        head, row = table.lines(HEADERS, [ROW], columns, spare=("PRIO", "QUEUE"))
        assert max(len(head), len(row)) <= columns
        return head.split()

    assert heads(80) == list(HEADERS)
    assert heads(48) == list(HEADERS)
    assert heads(46) == ["ID", "STATE", "QUEUE", "JOB"]
    assert heads(34) == ["ID", "STATE", "JOB"]


def test_table_when_even_a_first_column_is_too_wide_then_it_is_cut_and_no_line_wraps() -> None:
    rows = [("a-very-long-queue-name-for-tests", "open", 1, 0, 0), ("bulk", "throttled", 0, 0, 0)]

    lines = table.lines(("QUEUE", "STATE", "RUNNING", "QUEUED", "WAITING"), rows, 50)

    assert max(map(len, lines)) <= 50
    assert lines[1].startswith("a-very-l")
    assert [line.split()[-3:] for line in lines[1:]] == [["1", "0", "0"], ["0", "0", "0"]]


def test_table_when_its_last_column_explains_then_it_is_continued_below() -> None:
    lines = table.lines(("STEP", "WHY"), [("link", "it ended as failed (exit)"), ("ship", "")], 20, whole=True)

    assert lines == ["STEP  WHY", "link  it ended as", "      failed (exit)", "ship"]
