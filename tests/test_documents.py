"""README and docs are true: their commands and programs are run, their output is compared.

Owns the marks: a block is preceded by `<!-- run -->` or by `<!-- not run: reason -->`, and one without a mark fails. In
shown output `…` stands for anything, on a line of its own for any lines.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from stoker.cli import main
from stoker.config import Config, load
from tests.support import reference_page
from tests.support.daemon import DaemonProcess
from tests.support.facts import DEADLINE_S

ROOT = Path(__file__).parents[1]
TEXT = "\n".join(page.read_text() for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))))
BLOCK = re.compile(r"^(?:<!-- (?P<mark>.*?) -->\n)?```(?P<language>\w+)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)
COMMAND = re.compile(r"^\$ (?P<command>.*\n(?:> .*\n)*)(?P<output>(?:(?!\$ ).*\n)*)", re.MULTILINE)
ANY_LINES = r"(?:.*\n)*"


class Block(NamedTuple):
    """A fenced block and the mark above it."""

    mark: str
    language: str
    text: str


def blocks(text: str) -> list[Block]:
    return [Block(match["mark"] or "", match["language"], match["text"]) for match in BLOCK.finditer(text)]


def to_run(language: str, mark: str = "run") -> list[Block]:
    return [block for block in blocks(TEXT) if block.language == language and block.mark.startswith(mark)]


def unmarked(text: str) -> list[str]:
    return [block.text for block in blocks(text) if not re.fullmatch(r"run(: .+)?|not run: .+", block.mark)]


def pattern(shown: str) -> str:
    lines = shown.splitlines()
    return "".join(ANY_LINES if line == "…" else ".*".join(map(re.escape, line.split("…"))) + r"\n" for line in lines)


def differences(shown: str, seen: str) -> str:
    """Empty where `seen` is what was shown."""
    return "" if re.fullmatch(pattern(shown), seen) else f"shown:\n{shown}\nseen:\n{seen}"


SETTINGS = '[daemon]\nhandlers = ["plans", "chores"]\n'
MODULES = {name: module.text for name in ("plans", "chores") for module in to_run("python", f"run: {name}.py")}


def test_blocks_when_listed_then_each_is_run_or_says_why_not() -> None:
    assert unmarked(TEXT) == []


def test_blocks_when_one_has_no_mark_then_it_is_found() -> None:
    assert unmarked("text\n```console\n$ rm -rf /\n```\n") == ["$ rm -rf /\n"]


def test_links_when_they_lead_to_a_file_then_it_exists() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    links = {
        (page, link) for page in pages for link in re.findall(r"\]\(([^)#]+)", page.read_text()) if ":" not in link
    }

    assert {(page.name, link) for page, link in links if not (page.parent / link).exists()} == set()


@pytest.mark.parametrize("seen", ["1\nok\n", "1\na\nb\nok 2\n"])
def test_output_when_dots_stand_for_it_then_anything_is_accepted(seen: str) -> None:
    assert differences("1\n…\nok…\n", seen) == ""


def test_output_when_it_is_not_as_shown_then_the_difference_is_named() -> None:
    assert "exit 8" in differences("exit 7\n", "exit 8\n")


def test_reference_when_a_table_changes_then_it_is_current() -> None:
    assert reference_page.PAGE.read_text() == reference_page.page(), "python -m tests.support.reference_page writes it"


def inline_commands() -> list[str]:
    """The commands that stand in the text between backticks, outside of blocks."""
    prose = BLOCK.sub("", TEXT)
    return sorted({found.replace("\n", " ") for found in re.findall(r"`(stoker [^`]+)`", prose)})


@pytest.mark.parametrize("command", inline_commands())
def test_command_when_the_text_names_it_then_it_and_its_options_exist(command: str) -> None:
    typed = re.split(r"; |\$\(", command.replace("ID", "7").replace("…", ""))[0]
    words = shlex.split(typed, comments=True)[1:]
    if words[0].startswith("-"):
        main.program.parse(words)
        return
    name, rest = main._named(words)
    command_of = main.load(main._rows()[name][0])
    alone = {spelled for option in command_of.options if option.metavar for spelled in option.names}
    command_of.parse(rest[:-1] if rest and rest[-1] in alone else rest)  # the text may name an option without a value


@pytest.mark.parametrize("block", to_run("console"), ids=lambda block: block.text[:30])
def test_commands_when_typed_then_they_print_what_is_shown(block: Block, shared: DaemonProcess) -> None:
    if "needs socat" in block.mark and shutil.which("socat") is None:
        pytest.skip("socat is not installed")
    if "needs a change" in block.mark:
        for verb in ("pause", "resume"):
            shared.cli("queue", verb, "default")
    if "needs flow.toml" in block.mark:
        (flow,) = (other.text for other in blocks(TEXT) if other.language == "toml" and "a file, written" in other.mark)
        (shared.home / "flow.toml").write_text(flow)
    steps = [(match["command"].replace("\n> ", "\n"), match["output"]) for match in COMMAND.finditer(block.text)]
    mark = "-- the next command --"

    script = "".join(f"{command}echo; echo '{mark}'\n" for command, _ in steps)
    typed = subprocess.run(
        ["bash", "-c", f"exec 2>&1\n{script}"],
        env=shared.client_environ,
        cwd=shared.home,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )

    seen = typed.stdout.split(f"\n{mark}\n")
    unlike = [
        f"$ {command}{differences(shown, text)}"
        for (command, shown), text in zip(steps, seen, strict=False)
        if differences(shown, text)
    ]
    assert len(seen) == len(steps) + 1, typed.stdout
    assert unlike == []


def test_program_when_run_then_it_ends_well(shared: DaemonProcess) -> None:
    block = to_run("python")[0]
    ran = subprocess.run(
        [sys.executable, "-c", block.text], env=shared.client_environ, capture_output=True, text=True, check=False
    )

    assert (ran.returncode, ran.stderr) == (0, "")
    assert "/etc/hosts" in ran.stdout


def test_job_when_it_is_run_again_then_it_goes_on_from_its_checkpoint(shared: DaemonProcess) -> None:
    (block,) = to_run("python", "run: as a job")
    first_fails = "import os\nprint(state)\nraise SystemExit(os.environ['STOKER_ATTEMPT'] == '1')\n"
    ran = shared.cli(
        "run", "--max-attempts", "2", "--base-delay", "1ms", "--", sys.executable, "-c", block.text + first_fails
    )

    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.splitlines()[-1] == "{'epoch': 3}"


@pytest.mark.parametrize("block", to_run("toml"), ids=lambda block: block.text[:30])
def test_settings_when_loaded_then_they_are_valid(block: Block, tmp_path: Path) -> None:
    (tmp_path / "stoker.toml").write_text(block.text)

    assert load(tmp_path / "stoker.toml", {}) != Config()
