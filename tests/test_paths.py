"""The paths of the state, the socket and the settings, by flag, environment and user."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stoker.core.errors import EX_CONFIG, ConfigInvalid, UsageError
from stoker.paths import config_files, first_within_reach, socket_paths, state_dir, with_socket, with_state_dir

if TYPE_CHECKING:
    from collections.abc import Callable

HOME = {"HOME": "/home/ann"}


def test_state_dir_when_several_sources_name_it_then_the_earlier_one_wins() -> None:
    sources = [
        ("XDG_STATE_HOME", "/xdg", "/xdg/stoker"),
        ("STATE_DIRECTORY", "/var/lib/stoker:/var/lib/other", "/var/lib/stoker"),
        ("STOKER_STATE_DIR", "/asked", "/asked"),
    ]
    environ = dict(HOME)
    assert state_dir(None, environ, 1000) == "/home/ann/.local/state/stoker"
    for name, value, expected in sources:
        environ[name] = value
        assert state_dir(None, environ, 1000) == expected
    assert state_dir("/flag", environ, 1000) == "/flag"


@pytest.mark.parametrize(
    ("hint", "expected"),
    [
        ("stoker doctor says what is damaged", "stoker doctor --state-dir '/a b' says what is damaged"),
        (
            "stoker restore --from-journal, or: stoker restore --from-backup x",
            "stoker restore --state-dir '/a b' --from-journal, or: stoker restore --state-dir '/a b' --from-backup x",
        ),
        ("take another one: stoker backup ls", "take another one: stoker backup ls --state-dir '/a b'"),
        ("stoker status; stoker why 7", "stoker status; stoker why 7"),
    ],
)
def test_hint_when_the_state_is_not_in_the_usual_place_then_its_commands_name_it(hint: str, expected: str) -> None:
    assert with_state_dir(hint, "/a b", HOME, 1000) == expected
    assert with_state_dir(hint, "/a b", {**HOME, "STOKER_STATE_DIR": "/a b"}, 1000) == expected
    assert with_state_dir(hint, "/home/ann/.local/state/stoker", {**HOME, "STATE_DIRECTORY": "/x"}, 1000) == hint
    assert with_state_dir(hint, "/var/lib/stoker", HOME, 0) == hint


@pytest.mark.parametrize(
    ("hint", "expected"),
    [
        ("stoker ls --all", "stoker --socket '/a b' ls --all"),
        (
            "stoker logs -f 7, or stoker cancel 7",
            "stoker --socket '/a b' logs -f 7, or stoker --socket '/a b' cancel 7",
        ),
        ("stoker restore --from-journal", "stoker restore --from-journal"),
        ("stoker --socket /x ls; stoker --version", "stoker --socket /x ls; stoker --version"),
        ("start `stokerd` (`systemctl start stoker`), or wait", "start `stokerd` (`systemctl start stoker`), or wait"),
    ],
)
def test_hint_when_a_socket_was_typed_then_the_commands_that_ask_a_daemon_name_it(hint: str, expected: str) -> None:
    assert with_socket(hint, "/a b") == expected


def test_path_when_a_flag_is_empty_then_it_is_refused_and_not_the_usual_place() -> None:
    with pytest.raises(UsageError, match="--state-dir is empty"):
        state_dir("", HOME, 1000)
    with pytest.raises(UsageError, match="--socket is empty"):
        socket_paths("", HOME, 1000)


@pytest.mark.parametrize("find", [state_dir, socket_paths])
@pytest.mark.parametrize("environ", [{}, {"STOKER_STATE_DIR": "/\udcff", "STOKER_SOCKET": "/\udcff"}])
def test_path_when_it_is_not_utf8_then_it_is_refused_with_its_bytes(
    find: Callable[..., object], environ: dict[str, str]
) -> None:
    flag = None if environ else "/caf\udce9"
    with pytest.raises(ConfigInvalid, match=r"not UTF-8: b'/.*\\x") as refused:
        find(flag, HOME | environ, 1000)
    assert refused.value.exit_status == EX_CONFIG
    assert "choose another one with --s" in str(refused.value.hint)


def test_state_dir_when_relative_then_it_is_made_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert state_dir("here", HOME, 1000) == str(tmp_path / "here")


def test_state_dir_when_the_xdg_variable_is_relative_then_it_is_ignored() -> None:
    assert state_dir(None, {**HOME, "XDG_STATE_HOME": "x"}, 1000) == "/home/ann/.local/state/stoker"


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        (HOME, "/var/lib/stoker"),
        ({**HOME, "XDG_STATE_HOME": "x"}, "/var/lib/stoker"),
        ({**HOME, "XDG_STATE_HOME": "/xdg"}, "/xdg/stoker"),
        ({**HOME, "STOKER_STATE_DIR": "/asked"}, "/asked"),
    ],
)
def test_state_dir_when_root_sets_nothing_then_it_is_that_of_the_service(
    environ: dict[str, str], expected: str
) -> None:
    assert state_dir(None, environ, 0) == expected


def test_state_dir_when_there_is_no_home_then_the_password_file_knows() -> None:
    assert state_dir(None, {}, 1000).startswith("/")


@pytest.mark.parametrize(
    ("environ", "uid", "expected"),
    [
        ({"XDG_RUNTIME_DIR": "/run/user/1000"}, 1000, "/run/user/1000/stoker/stoker.sock"),
        ({"XDG_RUNTIME_DIR": "/run/user/0/"}, 0, "/run/stoker/stoker.sock"),
        ({"XDG_RUNTIME_DIR": "/tmp/mine"}, 0, "/tmp/mine/stoker/stoker.sock"),
        ({"XDG_RUNTIME_DIR": "relative"}, 1000, "/run/user/1000/stoker/stoker.sock /run/stoker/stoker.sock"),
        ({}, 1000, "/run/user/1000/stoker/stoker.sock /run/stoker/stoker.sock"),
        ({}, 0, "/run/stoker/stoker.sock"),
        ({"RUNTIME_DIRECTORY": "/run/stoker-b", "XDG_RUNTIME_DIR": "/x"}, 1000, "/run/stoker-b/stoker.sock"),
        ({"RUNTIME_DIRECTORY": "/run/stoker-b", "STOKER_SOCKET": "/y.sock"}, 1000, "/y.sock"),
    ],
)
def test_socket_path_when_no_flag_is_given_then_the_environment_decides(
    environ: dict[str, str], uid: int, expected: str
) -> None:
    assert socket_paths(None, environ, uid) == tuple(expected.split())


def test_socket_path_when_a_flag_is_given_then_it_wins() -> None:
    assert socket_paths("/flag.sock", {"STOKER_SOCKET": "/y.sock"}, 1000) == ("/flag.sock",)


@pytest.mark.parametrize(("there", "chosen"), [("a b", "a"), ("b", "b"), ("", "b")])
def test_first_within_reach_when_some_exist_then_the_best_is_chosen_else_the_last(there: str, chosen: str) -> None:
    assert first_within_reach(("a", "b"), there.split().__contains__) == chosen


def test_socket_path_when_at_the_kernels_limit_then_one_byte_more_is_refused() -> None:
    longest = "/" + "x" * 106
    assert socket_paths(longest, {}, 0) == (longest,)
    with pytest.raises(ConfigInvalid, match="108 bytes long; the limit is 107") as refused:
        socket_paths(longest + "x", {}, 0)
    assert refused.value.exit_status == EX_CONFIG


def test_config_files_when_asked_then_the_users_own_comes_first() -> None:
    expected = ("/home/ann/.config/stoker/stoker.toml", "/etc/stoker/stoker.toml")
    assert config_files(HOME) == expected
    assert config_files({"XDG_CONFIG_HOME": "/xdg"})[0] == "/xdg/stoker/stoker.toml"
