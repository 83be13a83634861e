"""Completions are generated from the table of commands, and their shells accept them."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shutil
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from stoker.cli import completion, main
from tests.support.daemon import BIN, DaemonProcess
from tests.support.facts import DEADLINE_S

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


SETTINGS = "[queues.bulk]\npaused = true\n"


@pytest.fixture(scope="module")
def busy(shared: DaemonProcess) -> DaemonProcess:
    """A queue `bulk` with jobs 1 (cancelled) and 2 (queued), a resource, a workflow of two steps."""
    shared.cli("resource", "set", "gpu=2")
    for _ in range(2):
        shared.cli("submit", "--queue", "bulk", "true")
    shared.cli("cancel", "1")
    steps = {name: {"command": "true", "queue": "bulk"} for name in ("compile", "link")}
    shared.cli("workflow", "submit", "-", input=json.dumps({"name": "x", "steps": steps}))
    shared.cli("rate", "set", "api:443", "1/s")
    shared.cli("rate", "set", "*", "1/s")
    shared.cli("event", "emit", "deploy")
    shared.cli("event", "emit", "done:x")
    return shared


def of_bash(daemon: DaemonProcess, line: str) -> set[str]:
    return completed(line, daemon.client_environ)


def of_fish(daemon: DaemonProcess, line: str) -> set[str]:
    return fish_words(line, daemon.client_environ)


def fish_words(line: str, environ: dict[str, str]) -> set[str]:
    script = f"{completion.fish()}\ncomplete -C {completion._quoted(line)}"
    done = subprocess.run(["fish", "-c", script], check=True, capture_output=True, text=True, cwd="/", env=environ)
    assert done.stderr == "", "an error of the script"
    return {row.split("\t")[0] for row in done.stdout.splitlines()}


ASKED = [
    ("stoker show ", {"1", "2", "3", "4"}),
    ("stoker cancel ", {"2", "3", "4"}),
    ("stoker retry ", {"1"}),
    ("stoker workflow show ", {"1"}),
    ("stoker workflow skip 1 ", {"compile", "link"}),
    ("stoker workflow retry 1 --step ", {"compile", "link"}),
    ("stoker workflow resume 1 --strategy ", {"restart", "from_checkpoint", "skip", "fail", "adopt"}),
    ("stoker submit --queue b", {"bulk"}),
    ("stoker queue pause ", {"bulk", "default"}),
    ("stoker submit --resource ", {"gpu"}),
    ("stoker submit --rate-key ", {"api:443"}),
    ("stoker rate rm ", {"api:443"}),
    ("stoker event emit d", {"deploy", "done:x"}),
    ("stoker submit --wait-for e", {"event:deploy", "event:done:x"}),
    ("stoker submit --wait-any j", {"job:2", "job:3", "job:4"}),
    ("stoker submit --wait-any w", {"workflow:1"}),
    ("stoker ls --state ca", {"cancelled"}),
    ("stoker workflow ls --state pa", {"paused"}),
    ("stoker ls --state failed,ca", {"failed,cancelled"}),
    (
        "stoker ls --state cancelled,failed,s",
        {f"cancelled,failed,{state}" for state in ("succeeded", "superseded", "skipped")},
    ),
    ("stoker ls --state skipped,succeeded,s", {"skipped,succeeded,superseded"}),
    ("stoker purge --state supe", {"superseded"}),
    ("stoker submit -- sha256s", {"sha256sum"}),
]


@pytest.mark.parametrize(("line", "offered"), ASKED)
def test_bash_when_names_and_ids_are_completed_then_the_daemon_is_asked(
    busy: DaemonProcess, line: str, offered: set[str]
) -> None:
    assert {word for word in of_bash(busy, line) if not word.startswith("-")} == offered


BROKEN = [
    ("stoker submit --wait-for event:de", {"deploy"}),
    ("stoker submit --wait-for event:", {"deploy", "done:x"}),
    ("stoker submit --wait-for event:done:", {"x"}),
    ("stoker submit --rate-key api:443 --queue b", {"bulk"}),
]


@pytest.mark.parametrize(("line", "offered"), BROKEN)
def test_bash_when_it_breaks_a_word_at_a_colon_then_the_rest_of_it_is_offered(
    busy: DaemonProcess, line: str, offered: set[str]
) -> None:
    assert of_bash(busy, line) == offered


@pytest.mark.parametrize(("line", "offered"), ASKED)
def test_fish_when_names_and_ids_are_completed_then_the_daemon_is_asked(
    busy: DaemonProcess, line: str, offered: set[str]
) -> None:
    if shutil.which("fish") is None:
        pytest.skip("no fish here")

    assert offered <= of_fish(busy, line)


def test_zsh_when_a_name_has_begun_then_the_tab_key_ends_it(busy: DaemonProcess, tmp_path: Path) -> None:
    zsh = shutil.which("zsh")
    if zsh is None:
        pytest.skip("no zsh here")
    (tmp_path / "completion").write_text(completion.zsh())
    environ = {**busy.client_environ, "HOME": str(tmp_path), "TERM": "dumb"}
    master, slave = pty.openpty()
    with subprocess.Popen([zsh, "-f", "-i"], stdin=slave, stdout=slave, stderr=slave, env=environ) as shell:
        os.close(slave)
        try:
            os.write(master, b"source ~/completion; echo rea''dy\n")
            seen = read_until(master, "ready\r")
            os.write(master, b"stoker queue pause bu\t")
            seen += read_until(master, "bulk")
        finally:
            shell.kill()
    os.close(master)

    assert "pause bulk" in seen.replace("\x08", "")
    assert "_stoker:" not in seen, "an error of the script"


def read_until(terminal: int, text: str) -> str:
    """The output of a terminal up to `text`."""
    seen, until = "", time.monotonic() + DEADLINE_S
    while text not in seen and time.monotonic() < until:
        ready, _, _ = select.select([terminal], [], [], 1)
        seen += os.read(terminal, 65536).decode(errors="replace") if ready else ""
    assert text in seen
    return seen


def test_words_when_there_is_no_daemon_then_nothing_is_offered_or_printed(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "stoker.cli.main", "--socket", tmp_path / "none", "completion", "--words", "jobs"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_bash_when_a_daemon_names_a_queue_like_a_command_then_it_is_left_out(tmp_path: Path) -> None:
    names = [{"name": name} for name in (f"$(touch {tmp_path}/done)", f"`touch {tmp_path}/done`", "a b", "bulk")]

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        listener.settimeout(DEADLINE_S)
        answer = threading.Thread(target=answer_once, args=(listener, {"queues": names}))
        answer.start()
        environ = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "STOKER_SOCKET": str(tmp_path / "socket")}
        offered = completed("stoker ls --queue ", environ)
        answer.join()

    assert offered == {"bulk"}
    assert not (tmp_path / "done").exists()


STEPS = ["list", "compile[lexer]", "compile[parser]", "compile[a/b]", "x[$(id)]"]


@contextmanager
def stepping(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a client whose daemon has a workflow of these steps, and answers once."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        listener.settimeout(DEADLINE_S)
        steps = [{"name": name, "job": number, "state": "queued"} for number, name in enumerate(STEPS, 1)]
        answer = threading.Thread(target=answer_once, args=(listener, {"workflow": 7, "steps": steps}))
        answer.start()
        yield {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "STOKER_SOCKET": str(tmp_path / "socket")}
        answer.join()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("stoker logs 7/l", {"7/list"}),
        ("stoker logs 7/comp", {"7/compile", *(f"7/compile\\[{label}\\]" for label in ("lexer", "parser", "a/b"))}),
        ("stoker logs 7/compile\\[lex", {"7/compile\\[lexer\\]"}),
        ('stoker logs "7/compile[l', {"7/compile[lexer]"}),
        ("stoker workflow retry 7 --step compile[p", {"compile\\[parser\\]"}),
        ("stoker why 7/x", {"7/x"}),
    ],
)
def test_bash_when_the_name_of_a_step_has_brackets_then_it_is_offered_quoted(
    tmp_path: Path, line: str, offered: set[str]
) -> None:
    with stepping(tmp_path) as environ:
        assert completed(line, environ) == offered


def test_fish_when_the_name_of_a_step_has_brackets_then_it_is_offered(tmp_path: Path) -> None:
    if shutil.which("fish") is None:
        pytest.skip("no fish here")

    with stepping(tmp_path) as environ:
        offered = fish_words("stoker logs 7/compile[l", environ)

    assert offered == {"7/compile[lexer]"}


def answer_once(listener: socket.socket, result: object) -> None:
    """Answer one request, as no daemon of ours would."""
    connection, _ = listener.accept()
    with connection, connection.makefile("rwb") as stream:
        request = json.loads(stream.readline())
        stream.write(json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": result}).encode() + b"\n")


def test_stokerd_when_it_is_completed_then_its_options_are_those_of_its_help() -> None:
    shown = subprocess.run([BIN / "stokerd", "--help"], capture_output=True, text=True, check=True).stdout

    assert {name for name, _, _ in completion.DAEMON} == set(re.findall(r"--[a-z-]+", shown.partition("options:")[2]))
    assert completed("stokerd --st") == {"--state-dir"}


def completed(line: str, environ: dict[str, str] | None = None) -> set[str]:
    """The words that bash offers behind `line`."""
    words = [part for word in line.split(" ") for part in re.split("([:@])", word) if part or ":" not in word]
    script = f"""{completion.bash()}
COMP_WORDS=({" ".join(f"'{word}'" for word in words)}); COMP_CWORD={len(words) - 1}
_{words[0]}; printf '%s\\n' "${{COMPREPLY[@]}}" """
    done = subprocess.run(["bash", "-c", script], check=True, capture_output=True, text=True, cwd="/", env=environ)
    return set(done.stdout.split("\n")[:-1])


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
        ("stoker ls --state failed,ca", {"failed,cancelled"}),
        ("stoker purge --state s", {"succeeded", "superseded", "skipped"}),
        ("stoker purge --state ru", {""}),
        ("stoker submit -- sha256s", {"sha256sum"}),
        ("stoker submit --queue x -- whil", {""}),
        ("stoker submit -- cat /etc/hostn", {"/etc/hostname"}),
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
