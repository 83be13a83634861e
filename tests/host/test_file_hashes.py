"""The hashes of files by their patterns, and the bounds of reading them."""

from __future__ import annotations

import glob
import os
import threading
from pathlib import Path

import pytest

from stoker.core.job.taken_over import FileHashes
from stoker.foreign import PLACE
from stoker.host import file_hashes
from stoker.host.file_hashes import DIRECTORY, FilesFound, FilesWanted, hashes_of
from stoker.host.threads import count_threads
from tests.support import facts

ENOUGH_S = 60


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "src" / "deep").mkdir(parents=True)
    for name in ("a.c", "b.c", "deep/c.c", "notes.txt"):
        (tmp_path / "src" / name).write_text(name)
    return tmp_path


async def looked(tree: Path, *sources: str, produces: tuple[str, ...] = ()) -> FilesFound:
    (found,) = await hashes_of([FilesWanted(str(tree), sources, produces)], ENOUGH_S)
    return found


async def test_hashes_when_patterns_match_then_each_file_has_the_hash_of_its_content(tree: Path) -> None:
    before = (await looked(tree, "src/*.c", "src/**/c.c")).hashes.sources
    (tree / "src" / "b.c").write_text("other")
    os.utime(tree / "src" / "a.c", (1, 1))

    after = (await looked(tree, "src/*.c", "src/**/c.c")).hashes.sources

    assert set(before) == {"src/a.c", "src/b.c", "src/deep/c.c"}
    assert {path for path in before if before[path] != after[path]} == {"src/b.c"}


async def test_hashes_when_products_are_missing_then_their_patterns_are_named(tree: Path) -> None:
    (tree / "dangling").symlink_to("nowhere")

    found = await looked(tree, "src/none.c", produces=("src/a.c", "build/x", "src/*.o", "dangling", "src"))

    assert found.missing == ["build/x", "src/*.o", "dangling"]
    assert (found.hashes.sources, found.hashes.produces["src"]) == ({}, DIRECTORY)


async def test_hashes_when_a_path_is_a_fifo_then_nothing_waits_and_they_are_unknown(tree: Path) -> None:
    os.mkfifo(tree / "src" / "pipe.c")

    found = await looked(tree, "src/*.c")

    assert found.hashes == FileHashes(unknown=f"{tree}/src/pipe.c is no regular file")


async def test_hashes_when_the_bounds_are_passed_then_they_are_unknown(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_hashes, "MOST_FILES", 2)
    many = await looked(tree, "src/**/*.c")
    (late,) = await hashes_of([FilesWanted(str(tree), ["src/a.c"])], 0)

    assert many.hashes.unknown == "they are more than 2 files"
    assert late.hashes.unknown == "they could not be read in time"


async def test_hashes_when_links_lead_to_their_own_directory_then_the_search_ends(tree: Path) -> None:
    for name in ("one", "two"):
        (tree / "src" / name).symlink_to(".")

    found = await looked(tree, "**/none", "src/**/*.c", "src/two/b.?")

    assert set(found.hashes.sources) == {"src/a.c", "src/b.c", "src/deep/c.c", "src/two/b.c"}


async def test_hashes_when_a_search_finds_nothing_then_it_ends_in_time_too(tree: Path) -> None:
    (tree / "one").symlink_to(".")
    (tree / "two").symlink_to(".")

    (found,) = await hashes_of([FilesWanted(str(tree), ["*/" * 39 + "none"])], 0.1)

    assert found.hashes.unknown == "they could not be read in time"
    facts.until(lambda: count_threads(file_hashes.THREAD_NAME) == 0)


async def test_hashes_when_patterns_are_of_any_form_then_the_files_are_those_of_glob(tree: Path) -> None:
    (tree / "src" / ".hidden").write_text("x")
    (tree / "src" / ".git").mkdir()
    (tree / "src" / ".git" / "in.c").write_text("x")

    for pattern in (
        "*",
        "**",
        "src/**",
        "**/*.c",
        "src/*/",
        "src/.*",
        "./src/../src/a.c",
        "[s]rc/?.c",
        f"{tree}/**/c.c",
    ):
        found = await looked(tree, pattern)

        wanted = {path.rstrip("/") for path in glob.glob(pattern, root_dir=tree, recursive=True)}  # noqa: PTH207
        assert {path.rstrip("/") for path in found.hashes.sources} == wanted, pattern


async def test_hashes_when_a_reader_hangs_then_the_answer_comes_in_time(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    monkeypatch.setattr(file_hashes, "_look", lambda *_: gate.wait())

    (found,) = await hashes_of([FilesWanted(str(tree), ["src/a.c"])], 0)

    gate.set()
    assert found.hashes.unknown == "a file system did not answer within 0s"


async def test_hashes_when_a_name_is_of_any_bytes_then_it_is_shown_printable(tree: Path) -> None:
    (tree / os.fsdecode(b"src/\xff.c")).write_text("x")

    assert "src/\\xff.c" in (await looked(tree, "src/*.c")).hashes.sources


async def test_hashes_when_jobs_run_as_others_then_only_what_all_may_read_has_one(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon can read files of others that the user who names them cannot."""
    monkeypatch.setattr(PLACE, "_prefix", "/nowhere/")
    (tree / "src").chmod(0o750)
    (tree / "link").symlink_to(tree / "src" / "a.c")

    (open_to_all,) = await hashes_of([FilesWanted("/etc", ["passw?"])], ENOUGH_S)
    listed, trees = await looked(tree, "src/*.c"), await looked(tree, "src/**/*.c")
    named = [await looked(tree, source) for source in ("src/a.c", "src", "link")]

    assert list(open_to_all.hashes.sources) == ["passwd"]
    assert (listed.hashes, trees.hashes) == (FileHashes(), FileHashes())
    for one in named:
        assert one.hashes.sources == {}
        assert "cannot be read: not everybody may read it" in str(one.hashes.unknown)
