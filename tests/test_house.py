"""The house checks itself: sizes, names, imports, sleeps, migrations, changelog, documents.

Owns which rule is for which files (tests/support/house.py has the rules, pyproject.toml the import contracts). Every
rule is also fed a sample that breaks it: a check that cannot fail guards nothing.
"""

from __future__ import annotations

import inspect
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from stoker.config import settings
from stoker.core import errors
from stoker.telemetry.events import LogEvent
from tests.support import house

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "daemon" / "stoker"
LINT_IMPORTS = Path(sys.executable).with_name("lint-imports")


def python(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def without(paths: Iterable[Path], *exceptions: str) -> list[Path]:
    return [path for path in paths if not str(path.relative_to(ROOT)).startswith(exceptions)]


PRODUCT = python("daemon")
TESTS = python("tests")
LAUNCHER = python("daemon/stoker/launcher", "daemon/stoker/spawner")
EVERYTHING = python("daemon", "tests", "benchmarks", "migrations", "systemd")


class Rule(NamedTuple):
    """A rule, the files it is for, and a sample that breaks it."""

    check: Callable[[house.Source], Iterator[str]]
    files: list[Path]
    broken: str


RULES = {
    "long functions": Rule(house.long_functions, EVERYTHING, "def f():\n" + "    x = 1\n" * 70),
    "long files": Rule(house.long_files, without(EVERYTHING, "tests/"), "x = 1\n" * 401),
    "docstrings": Rule(house.missing_docstrings, without(EVERYTHING, "tests/"), '"""Short."""\nx = 1\n'),
    "stand-alone launcher": Rule(house.foreign_imports, LAUNCHER, "from ..core import model\n"),
    "stand-alone errors": Rule(
        house.imports_beyond_the_library, [PACKAGE / "core" / "errors.py"], "from .clock import Clock\n"
    ),
    "one place prints": Rule(house.prints, without(PRODUCT, "daemon/stoker/cli/kit/render.py"), "print('hello')\n"),
    "no loose tasks": Rule(
        house.loose_tasks,
        without(PRODUCT, "daemon/stoker/background/"),
        "def f():\n    asyncio.ensure_future(g())\n",
    ),
    "one place says SQL": Rule(house.sql, without(PRODUCT, "daemon/stoker/store/"), 'ALL = "SELECT id FROM jobs"\n'),
    "no sleeps": Rule(
        house.sleeps, without(TESTS, "tests/support/facts.py"), "import time\ndef test_x():\n    time.sleep(1)\n"
    ),
    "line ends": Rule(house.splitlines, PRODUCT, "lines = text.splitlines()\n"),
    "test names": Rule(house.unspoken_test_names, TESTS, "def test_it():\n    pass\n"),
    "short test names": Rule(house.long_test_names, TESTS, f"def test_{'x' * 80}():\n    pass\n"),
    "plain words": Rule(
        house.riddles, python("daemon", "tests", "benchmarks"), '"""What nobody was told."""\ndef f():\n    pass\n'
    ),
    "migration heads": Rule(
        house.migration_heads, sorted((ROOT / "migrations").glob("*.sql")), "CREATE TABLE t (x);\n"
    ),
    "changelog": Rule(house.changelog, [ROOT / "CHANGELOG.md"], "# Changelog\n## [1.0.0]\n### Improved\n"),
}


class Findings(NamedTuple):
    """The results of one reading of all files: each is parsed once, for all rules, and its tree is dropped."""

    complaints: dict[str, list[str]]
    class_names: list[str]
    not_formatted: dict[str, int]


@pytest.fixture(scope="module")
def findings() -> Findings:
    found = Findings({name: [] for name in RULES}, [], {})
    rules: dict[Path, list[str]] = {}
    for name, rule in RULES.items():
        for path in rule.files:
            rules.setdefault(path, []).append(name)
    for path, names in rules.items():
        source, file = house.Source(path.read_text()), str(path.relative_to(ROOT))
        for name in names:
            found.complaints[name] += [f"{file}: {text}" for text in RULES[name].check(source)]
        if file.startswith("daemon/"):
            found.class_names.extend(house.class_names(source))
        if path.suffix == ".py" and (count := len(list(house.skipped_formatting(source)))):
            found.not_formatted[file] = count
    return found


@pytest.mark.parametrize("name", RULES)
def test_rule_when_every_file_is_read_then_there_is_no_complaint(name: str, findings: Findings) -> None:
    assert RULES[name].files, "a rule for no files guards nothing"
    assert findings.complaints[name] == []


@pytest.mark.parametrize("name", RULES)
def test_rule_when_it_is_broken_then_it_complains(name: str) -> None:
    rule = RULES[name]

    assert list(rule.check(house.Source(rule.broken)))


@pytest.mark.parametrize(
    "riddle",
    [
        '"""Who comes first."""',
        "x = 1  # nobody waits",
        '"""A job that was told."""',
        "def test_job_when_it_fails_then_it_says_so():\n    pass",
    ],
)
def test_plain_words_when_a_riddle_is_written_then_it_is_found(riddle: str) -> None:
    assert list(house.riddles(house.Source(riddle + "\n")))


@pytest.mark.parametrize(
    "sleep",
    ["time.sleep(0.1)", "await asyncio.sleep(1)", "await asyncio.sleep(delay)", "sleep(2)", "await trio.sleep(1)"],
)
def test_sleeps_when_any_spelling_is_used_then_it_is_found(sleep: str) -> None:
    assert list(house.sleeps(house.Source(f"async def f():\n    {sleep}\n")))


def test_sleeps_when_the_loop_is_only_let_run_then_there_is_no_complaint() -> None:
    assert list(house.sleeps(house.Source("async def f():\n    await asyncio.sleep(0)\n"))) == []


def test_module_names_when_the_tree_is_listed_then_every_one_is_a_noun() -> None:
    complaints = [text for path in EVERYTHING for text in house.names_that_are_no_noun(str(path.relative_to(ROOT)))]

    assert complaints == []


def test_module_names_when_a_file_is_called_utils_then_it_is_found() -> None:
    assert list(house.names_that_are_no_noun("daemon/stoker/store/utils.py"))


def test_migrations_when_listed_then_names_are_numbered_without_gaps() -> None:
    listing = "\n".join(sorted(path.name for path in (ROOT / "migrations").glob("*.sql")))

    assert list(house.migration_names(listing)) == []


@pytest.mark.parametrize(
    "listing",
    [
        "0002_create_core.sql",
        "0001_create_core.sql\n0003_add_x.sql",
        "0001_add_x.sql\n0001_create_core.sql",
        "1_init.sql",
    ],
)
def test_migrations_when_misnamed_then_it_is_found(listing: str) -> None:
    assert list(house.migration_names(listing))


def used_outside(*owners: str) -> str:
    return "\n".join(path.read_text() for path in without(PRODUCT, *owners))


def test_log_events_when_listed_then_each_is_logged_somewhere() -> None:
    text = used_outside("daemon/stoker/telemetry/events.py")

    used = set(re.findall(r"LogEvent\.(\w+)", text))

    assert {event.name for event in LogEvent} - used == set()


def test_settings_when_listed_then_each_is_read_somewhere() -> None:
    text = used_outside("daemon/stoker/config/settings.py") + inspect.getsource(settings.Config)
    read = set(re.findall(r"\.(\w+)", text))
    keys = {f"{section}.{key}" for section, struct in settings.SECTIONS.items() for key in struct.__struct_fields__}

    unused = {name for name in keys if name.split(".")[1] not in read}

    assert {name for name in unused if not name.startswith("psi.")} == set()  # psi is read by the names of its gauges


def test_errors_when_listed_then_each_is_raised_somewhere() -> None:
    text = used_outside("daemon/stoker/core/errors.py")
    classes = [name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception)]

    assert set(classes) - set(re.findall(r"\w+", text)) == set()


# How often a file still keeps ruff from formatting code; the list only shrinks.
NOT_FORMATTED_YET = {
    "tests/acceptance/test_any_bytes.py": 1,
    "tests/acceptance/test_real_work.py": 1,
    "tests/bad_input/test_frames.py": 1,
    "tests/cli/test_checkpoints.py": 1,
    "tests/cli/test_completion.py": 1,
    "tests/cli/test_graph.py": 2,
    "tests/cli/test_graph_edges.py": 1,
    "tests/cli/test_top.py": 1,
    "tests/cli/test_with_daemon.py": 1,
    "tests/engine/test_chain_recovery.py": 1,
    "tests/engine/test_editing.py": 1,
    "tests/engine/test_failed_workflows.py": 2,
    "tests/engine/test_limits.py": 1,
    "tests/engine/test_needs.py": 1,
    "tests/engine/test_resources.py": 1,
    "tests/engine/test_retries.py": 1,
    "tests/engine/test_silence.py": 1,
    "tests/engine/test_volume.py": 1,
    "tests/engine/test_workers.py": 1,
    "tests/engine/test_workflow_kills.py": 1,
    "tests/engine/test_workflows.py": 3,
    "tests/faults/test_dead_disk.py": 1,
    "tests/faults/test_fates.py": 1,
    "tests/migrations/test_migrate.py": 1,
    "tests/mutants/checkout.py": 3,
    "tests/ops/test_dry_run.py": 1,
    "benchmarks/depth.py": 1,
    "benchmarks/submits.py": 1,
    "benchmarks/throughput.py": 1,
    "benchmarks/workflows.py": 2,
}


def test_formatting_when_it_is_skipped_then_only_tables_of_data_are_meant(findings: Findings) -> None:
    assert findings.not_formatted == NOT_FORMATTED_YET


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("x = {1: 2}  # fmt: skip\n", 0),
        ("(a, b) = row  # fmt: skip\n", 0),
        ("def f():\n    return (1, 2)  # fmt: skip\n", 0),
        ("@pytest.mark.parametrize('x', [1, 2])  # fmt: skip\ndef f(): pass\n", 0),
        ("x = f(1)  # fmt: skip\n", 1),
        ("raise f(1)  # fmt: skip\n", 1),
    ],
)
def test_formatting_when_code_skips_it_then_it_is_found(source: str, count: int) -> None:
    assert len(list(house.skipped_formatting(house.Source(source)))) == count


def test_classes_when_listed_then_no_two_share_a_name(findings: Findings) -> None:
    assert findings.class_names
    assert list(house.shared_class_names(findings.class_names)) == []


def test_classes_when_two_share_a_name_then_it_is_found() -> None:
    sources = map(house.Source, ["class A:\n    pass\n", "class B:\n    class A:\n        pass\n"])

    assert list(house.shared_class_names(name for source in sources for name in house.class_names(source)))


def lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [LINT_IMPORTS, "--config", root / "pyproject.toml", "--no-cache"],
        cwd=root,
        env={"PYTHONPATH": str(root / "daemon"), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_imports_when_linted_then_every_arrow_points_down() -> None:
    result = lint_imports(ROOT)

    assert result.returncode == 0, result.stdout


BROKEN_ARROWS = {
    "Imports point down only": ("store/jobs.py", "import stoker.engine"),
    "The core is pure": ("core/job/retry.py", "import asyncio"),
    "The client starts fast": ("rpc/wire.py", "import msgspec"),
    "The launcher and the spawner stand alone": ("process/client.py", "import stoker.launcher"),
}


@pytest.mark.parametrize("contract", BROKEN_ARROWS)
def test_imports_when_an_arrow_points_up_then_its_contract_breaks(contract: str, tmp_path: Path) -> None:
    file, line = BROKEN_ARROWS[contract]
    shutil.copytree(PACKAGE, tmp_path / "daemon" / "stoker", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / "daemon" / "stoker" / file).open("a") as module:
        module.write(f"\n{line}\n")

    result = lint_imports(tmp_path)

    broken = [text for text in result.stdout.splitlines() if contract in text and "BROKEN" in text]
    assert broken, result.stdout


# --- ARCHITECTURE.md is true ---

ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text()


def architecture(name: str) -> str:
    """The text between two marks of ARCHITECTURE.md."""
    return ARCHITECTURE.split(f"<!-- {name} -->")[1].split(f"<!-- /{name} -->")[0]


def listed_files() -> set[str]:
    """`room/file` of every file in the table of rooms."""
    rows = [line.strip("| ").split(" | ") for line in architecture("files").splitlines() if line.startswith("| ")]
    rooms = {room.strip("`").removeprefix("top"): files for room, files in rows if room != "room"}
    words = {room: re.findall(r"`([a-z_]+)`", files) for room, files in rooms.items()}
    return {str(Path(room, name)) for room, names in words.items() for name in names}


def modules() -> set[str]:
    files = [path for path in PACKAGE.rglob("*.py") if not path.name.startswith("__")]
    return {str(path.relative_to(PACKAGE).with_suffix("")) for path in files}


def test_files_when_counted_then_each_stands_in_the_architecture() -> None:
    programs = {"stokerd"}  # in backticks, too

    assert listed_files() - programs == modules()


def test_layers_when_compared_with_the_contract_then_they_are_the_same() -> None:
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    drawn = [line.split("  ")[0] for line in architecture("layers").strip().strip("`").strip().splitlines()]

    assert drawn == contract["layers"]


@pytest.mark.parametrize("document", ["ARCHITECTURE.md", "CONTRIBUTING.md"])
def test_paths_when_a_document_names_them_then_they_exist(document: str) -> None:
    named = set(re.findall(r"`([\w/]+\.(?:py|toml|md)|[\w/]+/\w*)`", (ROOT / document).read_text()))

    assert named
    assert [path for path in sorted(named) if not (PACKAGE / path).exists() and not (ROOT / path).exists()] == []


def test_support_when_its_modules_are_listed_then_the_index_names_each() -> None:
    folder = ROOT / "tests" / "support"
    index = (folder / "README.md").read_text()
    modules = {path.stem for path in folder.glob("*.py")}

    assert {name for name in modules if not re.search(rf"\b{name}\b", index)} == set()
    assert set(re.findall(r"`(\w+)\.py`", index)) - modules == set()
