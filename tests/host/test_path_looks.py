"""Looks at paths with real inotify: every change that matters gives a notice, and the result is put into words."""

from __future__ import annotations

import os
import select
from typing import TYPE_CHECKING

import pytest

from stoker.foreign import PLACE
from stoker.host.inotify import Inotify
from stoker.host.path_looks import MOST_LINKS, Sight, Surroundings, look_at_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


class Watched:
    """A path that was looked at, and whether a notice has come since."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.inotify = Inotify()
        self.sight = Sight()

    def look(self, *, content: bool = False) -> Sight:
        self.sight = Sight()
        look_at_path(self.sight, str(self.path), self.inotify.watch, Surroundings(), content=content)
        return self.sight

    def has_notice(self) -> bool:
        """Whether a notice has come that is about the path. The kernel queues it before a system call returns."""
        names: dict[int, set[bytes | None]] = {}
        for watch, name in self.sight.watches:
            names.setdefault(watch, set()).add(name)
        heard = self.inotify.read() if select.select([self.inotify.fd], [], [], 0)[0] else []
        return any(
            not notice.name or notice.name in names[notice.watch] or None in names[notice.watch]
            for notice in heard
            if notice.watch in names
        )


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    (tmp_path / "in").mkdir()
    one = Watched(tmp_path / "in" / "deep" / "ready")
    yield one
    one.inotify.close()


def test_look_when_nothing_is_there_then_the_first_missing_name_is_given(watched: Watched) -> None:
    sight = watched.look()

    assert (sight.seen, sight.state) == ("", f"{watched.path.parent} does not exist")
    assert sight.untold is None


def test_look_when_a_link_leads_to_a_name_of_other_bytes_then_the_words_can_be_sent(watched: Watched) -> None:
    watched.path.parent.symlink_to(os.fsdecode(b"caf\xe9"))

    sight = watched.look()

    assert (sight.seen, sight.state) == ("", f"{watched.path.parent.parent}/caf\\xe9 does not exist")


def test_look_when_the_directories_come_one_by_one_then_each_gives_a_notice(watched: Watched) -> None:
    watched.look()
    watched.path.parent.mkdir()
    assert watched.has_notice()
    assert watched.look().state == f"{watched.path} does not exist"
    watched.path.touch()
    assert watched.has_notice()
    assert watched.look().seen


def test_look_when_other_names_come_and_go_then_no_notice_comes(watched: Watched) -> None:
    watched.path.parent.mkdir()
    watched.look()

    for number in range(100):
        (watched.path.parent / str(number)).touch()

    assert not watched.has_notice()


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.write_text("other"),
        lambda path: path.with_name("new").rename(path),
        os.utime,
        lambda path: path.unlink(),
        lambda path: path.rename(path.with_name("away")),
        lambda path: path.parent.rename(path.parent.with_name("elsewhere")),
        lambda path: path.parent.chmod(0),
    ],
    ids=["written", "replaced", "touched", "removed", "renamed", "directory renamed", "directory closed"],
)
def test_look_when_a_file_changes_in_any_way_then_a_notice_comes(
    watched: Watched, change: Callable[[Path], object]
) -> None:
    watched.path.parent.mkdir()
    watched.path.write_text("as it was")
    watched.path.with_name("new").write_text("as it was")
    watched.look()

    change(watched.path)

    assert watched.has_notice()


def test_look_when_the_content_of_a_directory_is_watched_then_new_names_give_notices(watched: Watched) -> None:
    watched.path.mkdir(parents=True)
    before = watched.look(content=True).seen

    (watched.path / "new").touch()

    assert watched.has_notice()
    assert watched.look(content=True).seen != before


def test_look_when_a_file_is_written_by_another_name_then_a_notice_comes(watched: Watched, tmp_path: Path) -> None:
    watched.path.parent.mkdir()
    watched.path.touch()
    other = tmp_path / "other"
    other.hardlink_to(watched.path)
    watched.look(content=True)

    other.write_text("more")

    assert watched.has_notice()


@pytest.mark.parametrize("target", ["real", "../in/real", "{}/in/real"], ids=["beside", "relative", "absolute"])
def test_look_when_a_link_leads_to_it_then_both_ends_are_watched(watched: Watched, tmp_path: Path, target: str) -> None:
    (tmp_path / "in" / "real").mkdir()
    watched.path.parent.symlink_to(target.format(tmp_path))
    assert watched.look().state == f"{tmp_path}/in/real/ready does not exist"

    (tmp_path / "in" / "real" / "ready").touch()
    assert watched.has_notice()
    assert watched.look().seen

    (tmp_path / "in" / "other").mkdir()
    watched.path.parent.unlink()
    watched.path.parent.symlink_to("other")
    assert watched.has_notice()
    assert watched.look().seen == ""


def test_look_when_the_last_name_is_a_link_to_nothing_then_nothing_is_there(watched: Watched, tmp_path: Path) -> None:
    watched.path.parent.mkdir()
    watched.path.symlink_to(tmp_path / "target")
    assert watched.look().state == f"{tmp_path}/target does not exist"

    (tmp_path / "target").touch()

    assert watched.has_notice()
    assert watched.look().seen


def test_look_when_links_run_in_a_circle_then_it_ends_with_a_reason(watched: Watched) -> None:
    watched.path.parent.symlink_to("deep")

    sight = watched.look()

    assert (sight.seen, sight.untold) == (None, os.strerror(40))
    assert len(sight.watches) < MOST_LINKS + 20


def test_look_when_a_file_stands_where_a_directory_should_then_the_file_is_named(watched: Watched) -> None:
    watched.path.parent.touch()

    assert watched.look().state == f"{watched.path.parent} is no directory"


def test_look_when_the_path_has_dots_then_they_mean_what_they_mean_to_the_kernel(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "short").symlink_to("a/b")
    (tmp_path / "a" / "ready").touch()
    sight = Sight()

    look_at_path(sight, f"{tmp_path}//short/./../ready", None, Surroundings(), content=False)

    assert sight.seen


def test_look_when_the_root_is_the_path_then_it_is_there() -> None:
    sight = Sight()

    look_at_path(sight, "/", None, Surroundings(), content=False)

    assert sight.seen


def test_look_when_what_is_there_is_the_same_then_what_was_seen_is_the_same(watched: Watched) -> None:
    watched.path.parent.mkdir()
    watched.path.write_text("a")
    first = watched.look().seen
    assert watched.look().seen == first
    watched.path.write_text("ab")
    second = watched.look().seen
    assert second != first
    watched.path.with_name("new").write_text("ab")
    os.utime(watched.path.with_name("new"), ns=(0, watched.path.stat().st_mtime_ns))
    watched.path.with_name("new").rename(watched.path)
    assert watched.look().seen not in (first, second)


def test_look_when_the_user_has_no_watch_left_then_it_looks_and_says_why(watched: Watched) -> None:
    def refuse(_path: bytes) -> int:
        raise OSError(28, "No space left on device")

    watched.path.parent.mkdir()
    watched.path.touch()
    sight = Sight()
    look_at_path(sight, str(watched.path), refuse, Surroundings(), content=False)

    assert sight.seen
    assert (
        sight.untold == "the limit of watches of the user of the daemon is reached (sysctl fs.inotify.max_user_watches)"
    )


@pytest.mark.parametrize("kind", ["nfs4", "fuse.sshfs", "ext4"])
def test_look_when_the_file_system_does_not_report_all_changes_then_it_is_named(watched: Watched, kind: str) -> None:
    watched.path.parent.mkdir()
    watched.path.touch()
    sight, around = Sight(), Surroundings({watched.path.stat().st_dev: kind})

    look_at_path(sight, str(watched.path), watched.inotify.watch, around, content=False)

    assert sight.untold == (None if kind == "ext4" else f"a {kind} file system does not report all changes")


def test_look_when_a_link_leads_to_where_another_look_hangs_then_it_stops_before(tmp_path: Path) -> None:
    (tmp_path / "dead" / "data").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "dead")
    sight = Sight()

    look_at_path(sight, f"{tmp_path}/link/data", None, Surroundings(hanging={f"{tmp_path}/dead"}), content=False)

    assert (sight.seen, sight.untold) == (None, "its file system does not answer")
    assert sight.at == str(tmp_path)


def test_look_when_jobs_run_as_others_then_it_ends_at_a_closed_directory(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon can enter directories that the user who waits cannot."""
    watched.path.parent.mkdir()
    watched.path.touch()
    assert watched.look().seen
    monkeypatch.setattr(PLACE, "_prefix", "/nowhere/")
    watched.path.parent.chmod(0o750)

    sight = watched.look()

    assert sight.seen is None
    assert "cannot be read by the user of the daemon: not everybody may enter it" in sight.state
