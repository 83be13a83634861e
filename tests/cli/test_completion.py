"""The completions are made of the table and are scripts that their shells accept."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from stoker.cli import completion, main


def completed(line: str) -> set[str]:
    """What bash offers behind `line`."""
    words = line.split(" ")
    script = f"""{completion.bash()}
COMP_WORDS=({" ".join(f"'{word}'" for word in words)}); COMP_CWORD={len(words) - 1}
_stoker; printf '%s\\n' "${{COMPREPLY[@]}}" """
    done = subprocess.run(["bash", "-c", script], check=True, capture_output=True, text=True, cwd="/")
    return set(done.stdout.split())


def test_bash_when_nothing_is_typed_then_every_command_is_offered() -> None:
    offered = completed("stoker ")

    assert {name.split()[0] for rows in main.COMMANDS.values() for name in rows} <= offered


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("stoker su", {"submit"}),
        ("stoker submit --max-a", {"--max-attempts"}),
        ("stoker submit --on-orphan re", {"requeue"}),
        ("stoker queue pa", {"pause"}),
        ("stoker queue set --cl", {"--class"}),
        ("stoker queue set --class h", {"high"}),
        ("stoker workflow add", {"add-need"}),
        ("stoker workflow graph --fo", {"--format"}),
        ("stoker workflow graph --format d", {"dot"}),
        ("stoker checkpoint s", {"save", "show"}),
        ("stoker completion f", {"fish"}),
        ("stoker config che", {"check"}),
        ("stoker --socket /x ls --sta", {"--state"}),
    ],
)
def test_bash_when_a_word_has_begun_then_its_endings_are_offered(line: str, offered: set[str]) -> None:
    assert completed(line) == offered


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_script_when_the_shell_reads_it_then_it_is_accepted(shell: str) -> None:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"no {shell} here")

    done = subprocess.run(
        [program, "-n"], input=completion.SHELLS[shell](), capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_script_when_made_then_no_option_of_a_command_is_missing(shell: str) -> None:
    script = completion.SHELLS[shell]()

    for rows in main.COMMANDS.values():
        for target, _ in rows.values():
            for option in main.load(target).options:
                assert option.names[-1].lstrip("-") in script
