"""The socket has the mode and group of [access] before a client can connect; a mode that keeps users out is named."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from stoker.core.access import AccessRules
from stoker.core.errors import CannotCreate
from stoker.rpc.address import Address, bind_socket, lock_socket, unlock_socket
from stoker.rpc.entrance import hindrance

OWN = os.geteuid()
OWNER = AccessRules(own_uid=OWN)
EVERYONE = AccessRules(own_uid=OWN, everyone=True)
ONE_GROUP = AccessRules(own_uid=OWN, group=os.getegid())
TWO_GROUPS = AccessRules(own_uid=OWN, group=os.getegid(), operators=os.getegid() + 1)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize(
    ("access", "mode"), [(OWNER, 0o600), (ONE_GROUP, 0o660), (TWO_GROUPS, 0o666), (EVERYONE, 0o666)]
)
def test_socket_when_bound_then_its_mode_is_that_of_the_access(tmp_path: Path, access: AccessRules, mode: int) -> None:
    path = tmp_path / "s.sock"
    os.umask(0o077)

    with bind_socket(path, access):
        assert mode_of(path) == mode
        assert path.stat().st_gid == os.getegid()


def test_socket_when_the_access_changes_then_its_mode_follows(tmp_path: Path) -> None:
    address = Address(tmp_path / "s.sock", OWNER)
    address.lock()
    with address.bind():
        address.use(EVERYONE)
        opened = mode_of(address.path)
        address.use(OWNER)
        assert (opened, mode_of(address.path)) == (0o666, 0o600)
    address.release()


def test_directory_when_it_is_made_for_others_too_then_they_can_pass_it(tmp_path: Path) -> None:
    for access, mode in ((OWNER, 0o700), (EVERYONE, 0o711)):
        path = tmp_path / f"{mode:o}" / "s.sock"
        unlock_socket(path, lock_socket(path, access))

        assert mode_of(path.parent) == mode


@pytest.mark.skipif(OWN == 0, reason="root may give a socket to any group")
def test_socket_when_its_owner_is_no_member_of_the_group_then_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CannotCreate, match=r"\[access\] wants mode 660"):
        bind_socket(tmp_path / "s.sock", AccessRules(own_uid=OWN, group=4_000_000))


def test_hindrance_when_a_directory_keeps_others_out_then_it_is_named(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    directory.mkdir(mode=0o700)
    path = directory / "s.sock"
    with bind_socket(path, EVERYONE):
        closed = hindrance(path, EVERYONE)
        path.chmod(0o600)
        assert closed == f"{directory} has mode 700, so other users cannot reach the socket"
        assert hindrance(path, EVERYONE) == f"{path} has mode 600, so other users cannot reach the socket"
        assert hindrance(path, OWNER) is None


def test_hindrance_when_the_group_may_pass_then_there_is_none_for_it(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    with bind_socket(path, ONE_GROUP):
        rights = hindrance(path, ONE_GROUP)
        path.chmod(0o600)

        assert rights is None or str(path) not in rights
        assert str(path) in (hindrance(path, ONE_GROUP) or "")


def test_hindrance_when_the_socket_is_gone_then_the_error_names_it(tmp_path: Path) -> None:
    assert hindrance(tmp_path / "s.sock", EVERYONE) == f"{tmp_path / 's.sock'}: No such file or directory"
