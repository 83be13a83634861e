"""The policy file: refused whole for any mistake, and if another user than root could write it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stoker.spawner.packets import POLICY, RefusedError
from stoker.spawner.policy import MAX_BYTES, read_policy

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can own a policy")

USER = "nobody"


@pytest.fixture
def file() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "run-as.toml"


def refusal(file: Path) -> str:
    with pytest.raises(RefusedError) as refused:
        read_policy(str(file))
    assert refused.value.code == POLICY
    return refused.value.words


def test_policy_when_it_has_only_a_user_then_the_rest_is_strict(file: Path) -> None:
    file.write_text(f'daemon_user = "{USER}"\n')

    policy = read_policy(str(file))

    assert (policy.min_uid, policy.allow_root, policy.users, policy.groups) == (1000, False, frozenset(), frozenset())
    assert policy.directory == "/var/lib/stoker-users"


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("min_uid = -1", "min_uid = -1: it is 0 to 4294967294"),
        ("min_uid = true", "min_uid = True: it is the lowest uid"),
        ('min_uid = "1000"', "min_uid = '1000': it is the lowest uid"),
        ("allow_root = 1", "allow_root = 1: it is true or false"),
        ("users = 5", "users = 5: it is a list of names or uids"),
        ("users = [true]", "users: there is no True on this host"),
        ('users = ["no such user"]', "users: there is no 'no such user' on this host"),
        ('groups = ["a\\u0000b"]', "groups: there is no 'a\\x00b' on this host"),
        ('directory = "relative"', "directory = 'relative': it is an absolute path"),
        ('directory = "/var/../etc"', "directory = '/var/../etc': it is an absolute path"),
        ('directory = "/"', "directory = '/': it is an absolute path"),
        ("min_udi = 5", "min_udi: no such key"),
        ("min_uid = ", "Invalid value"),
    ],
)
def test_policy_when_a_rule_is_wrong_then_it_is_refused_by_its_key(file: Path, rule: str, words: str) -> None:
    file.write_text(f'daemon_user = "{USER}"\n{rule}\n')

    assert words in refusal(file)


@pytest.mark.parametrize(("user", "words"), [("root", "must not be root"), ("no-such-user", "there is no such user")])
def test_policy_when_the_daemon_cannot_be_that_user_then_it_is_refused(file: Path, user: str, words: str) -> None:
    file.write_text(f'daemon_user = "{user}"\n')

    assert words in refusal(file)


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
def test_policy_when_others_can_write_it_then_it_is_refused(file: Path, mode: int) -> None:
    file.write_text(f'daemon_user = "{USER}"\n')
    file.chmod(mode)

    assert "only root can write to" in refusal(file)


def test_policy_when_it_or_its_directory_belongs_to_another_then_it_is_refused(file: Path) -> None:
    file.write_text(f'daemon_user = "{USER}"\n')
    os.chown(file, 65_533, 0)
    of_file = refusal(file)
    os.chown(file, 0, 0)
    os.chown(file.parent, 65_533, 0)

    assert "must belong to root" in of_file
    assert f"{file.parent} belongs to uid 65533" in refusal(file)


def test_policy_when_it_is_a_link_a_fifo_or_too_large_then_it_is_refused(file: Path) -> None:
    link, fifo = file.with_name("link"), file.with_name("fifo")
    link.symlink_to(file)
    os.mkfifo(fifo)
    file.write_text(f'daemon_user = "{USER}"\n#' + "x" * MAX_BYTES)

    assert "Too many levels of symbolic links" in refusal(link)
    assert "is not a file" in refusal(fifo)
    assert f"at most {MAX_BYTES}" in refusal(file)
    assert "No such file" in refusal(file.with_name("missing"))
