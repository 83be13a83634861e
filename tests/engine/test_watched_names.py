"""The paths that a notice of the kernel concerns, among many in one directory."""

from __future__ import annotations

from stoker.host.inotify import FileNotice
from stoker.upkeep.watched_names import WatchedNames

ROOT, IN = 1, 2
ABOUT_ITSELF = b""


def of(*paths: str) -> WatchedNames:
    names = WatchedNames()
    for path in paths:
        names.add(path, [(ROOT, b"in"), (IN, path.encode())])
    return names


def test_notice_when_it_has_a_name_then_it_concerns_the_paths_through_that_name() -> None:
    names = of("a", "b")
    names.add("whole", [(ROOT, b"in"), (IN, None)])

    assert set(names.concerned(FileNotice(IN, b"b"))) == {"b", "whole"}
    assert set(names.concerned(FileNotice(IN, b"temporary"))) == {"whole"}
    assert set(names.concerned(FileNotice(ROOT, b"in"))) == {"a", "b", "whole"}


def test_notice_when_it_is_about_a_directory_then_it_concerns_all_paths_through_it() -> None:
    names = of("a", "b")

    assert set(names.concerned(FileNotice(IN, ABOUT_ITSELF))) == {"a", "b"}
    assert set(names.concerned(FileNotice(9, ABOUT_ITSELF))) == set()


def test_watch_when_its_last_path_is_removed_then_it_is_not_known_any_more() -> None:
    names = of("a", "b")

    names.remove("a", [(ROOT, b"in"), (IN, b"a"), (IN, b"a")])
    assert ROOT in names
    assert IN in names
    names.remove("b", [(ROOT, b"in"), (IN, b"b")])

    assert ROOT not in names
    assert IN not in names
