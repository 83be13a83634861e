"""A launcher for a user: its ids and groups, its directory, its descriptors, and who may ask for it."""

from __future__ import annotations

import os
import pwd
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stoker.process.spawner import bar_of
from stoker.spawner.packets import ACCOUNT, CHECK_MAGIC, FORBIDDEN, HOST, MALFORMED, REQUEST, STARTED

if TYPE_CHECKING:
    from tests.support.accounts import Accounts, SpawnerHost

ROOT_LOGS = 0o2750


@pytest.fixture(scope="module")
def user(host_accounts: Accounts) -> pwd.struct_passwd:
    return host_accounts.add("u")


def status_of(pid: int) -> dict[str, list[str]]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {line.partition(":")[0]: line.partition(":")[2].split() for line in lines}


def test_launcher_when_user_has_forty_groups_then_it_has_all_ids_of_the_user(
    spawner: SpawnerHost, host_accounts: Accounts
) -> None:
    groups = [host_accounts.add_group(f"g{number}") for number in range(40)]
    member = host_accounts.add("m", groups=groups)

    answer, ready = spawner.launch(member.pw_uid)

    shown = status_of(answer.pid)
    assert (answer.code, ready) == (STARTED, b"+"), answer.words
    assert shown["Uid"] == [str(member.pw_uid)] * 4
    assert shown["Gid"] == [str(member.pw_gid)] * 4
    assert sorted(map(int, shown["Groups"])) == sorted(os.getgrouplist(member.pw_name, member.pw_gid))
    assert len(shown["Groups"]) == 41
    assert shown["CapEff"] == shown["CapPrm"] == shown["CapInh"] == ["0" * 16]


def test_launcher_when_started_then_it_has_nothing_of_the_spawner(
    spawner: SpawnerHost, user: pwd.struct_passwd
) -> None:
    answer, _ = spawner.launch(user.pw_uid)

    environ = Path(f"/proc/{answer.pid}/environ").read_bytes().split(b"\0")
    names = {variable.partition(b"=")[0] for variable in environ if variable}
    opened = [str(path.readlink()) for path in Path(f"/proc/{answer.pid}/fd").iterdir()]
    assert names == {b"PATH", b"STOKER_INSTANCE", b"STOKER_LAUNCHER"}
    assert not any(str(spawner.log) in path or str(spawner.policy) in path for path in opened)
    assert os.getsid(answer.pid) == answer.pid
    assert status_of(answer.pid)["Umask"] == ["0007"]


def test_directory_when_made_then_the_user_and_the_daemons_group_alone_reach_it(
    spawner: SpawnerHost, user: pwd.struct_passwd
) -> None:
    spawner.launch(user.pw_uid)

    own = (spawner.users / str(user.pw_uid)).stat()
    above = spawner.users.stat()
    assert (own.st_uid, own.st_gid, stat.S_IMODE(own.st_mode)) == (user.pw_uid, spawner.daemon.pw_gid, ROOT_LOGS)
    assert (above.st_uid, stat.S_IMODE(above.st_mode)) == (0, 0o755)
    for room in ("launchers", "outcomes", "logs", "work"):
        made = (spawner.users / str(user.pw_uid) / room).stat()
        assert (made.st_uid, made.st_gid, stat.S_IMODE(made.st_mode)) == (user.pw_uid, spawner.daemon.pw_gid, 0o2770)


@pytest.mark.parametrize("uid", [0, 1, 65_534, (1 << 32) - 1])
def test_request_when_no_rule_can_admit_the_uid_then_it_is_forbidden(spawner: SpawnerHost, uid: int) -> None:
    before = sorted(spawner.users.glob("*"))

    answer, ready = spawner.launch(uid)

    assert (answer.code, ready) == (FORBIDDEN, b"")
    assert f"uid {uid}" in answer.words
    assert sorted(spawner.users.glob("*")) == before


def test_request_when_it_is_for_the_daemon_itself_then_it_is_forbidden(spawner: SpawnerHost) -> None:
    answer, _ = spawner.launch(spawner.daemon.pw_uid)

    assert answer.code == FORBIDDEN
    assert "the daemon itself" in answer.words


def test_request_when_the_account_is_gone_locked_or_expired_then_it_is_refused(
    spawner: SpawnerHost, host_accounts: Accounts
) -> None:
    gone, locked, expired = (host_accounts.add(name) for name in ("gone", "locked", "expired"))
    host_accounts.remove_user(gone)
    host_accounts.change(locked, "--password", "!$6$salt$hash")
    host_accounts.change(expired, "--expiredate", "1")

    answers = [spawner.launch(one.pw_uid)[0] for one in (gone, locked, expired)]

    assert [answer.code for answer in answers] == [ACCOUNT] * 3
    for answer, words in zip(answers, ("has no account", "is locked: passwd -u", "expired on day 1"), strict=True):
        assert words in answer.words


def test_request_when_users_or_groups_are_listed_then_only_these_are_admitted(
    spawner: SpawnerHost, host_accounts: Accounts, user: pwd.struct_passwd
) -> None:
    group = host_accounts.add_group("allowed")
    member = host_accounts.add("member", groups=[group])
    other = host_accounts.add("other")
    spawner.allow(f'users = ["{user.pw_name}"]\ngroups = ["{group}"]\n')

    codes = [spawner.launch(one.pw_uid)[0].code for one in (user, member, other)]

    assert codes == [STARTED, STARTED, FORBIDDEN]


def test_check_when_asked_then_it_says_what_a_launch_would_and_starts_none(
    spawner: SpawnerHost, host_accounts: Accounts, user: pwd.struct_passwd
) -> None:
    locked, other = host_accounts.add("shut"), host_accounts.add("unlisted")
    host_accounts.change(locked, "--password", "!$6$salt$hash")
    spawner.allow(f'users = ["{user.pw_name}", "{locked.pw_name}"]\n')
    asked_by = spawner.daemon.pw_uid
    os.seteuid(asked_by)
    try:
        bars = [bar_of(str(spawner.socket), one.pw_uid) for one in (user, locked, other)]
    finally:
        os.seteuid(0)
    packet = REQUEST.pack(CHECK_MAGIC, user.pw_uid, 1, 0, bytes(4), bytes(8))

    assert bars[0] is None
    assert "is locked: passwd -u" in str(bars[1])
    assert "is neither in users nor a member" in str(bars[2])
    assert spawner.ask(packet)[:2] == (STARTED, 0)
    assert spawner.ask(packet, [0]).code == MALFORMED


def test_request_when_root_is_allowed_then_its_launcher_starts(spawner: SpawnerHost) -> None:
    spawner.allow("allow_root = true\n")

    answer, ready = spawner.launch(0)

    assert (answer.code, ready) == (STARTED, b"+"), answer.words


def test_request_when_the_peer_is_not_the_daemon_then_it_is_refused(
    spawner: SpawnerHost, user: pwd.struct_passwd
) -> None:
    answer, ready = spawner.launch(user.pw_uid, asked_by=0)

    assert (answer.code, ready) == (MALFORMED, b"")
    with pytest.raises(PermissionError):
        spawner.connect(user.pw_uid)


def test_request_when_the_policy_has_a_mistake_then_all_are_refused_meanwhile(
    spawner: SpawnerHost, user: pwd.struct_passwd
) -> None:
    spawner.allow("min_udi = 5\n")
    refused, _ = spawner.launch(user.pw_uid)
    spawner.allow("")
    started, _ = spawner.launch(user.pw_uid)

    assert "min_udi: no such key" in refused.words
    assert started.code == STARTED


@pytest.mark.parametrize("room", ["launchers", "logs"])
def test_request_when_the_user_put_a_link_there_then_the_target_stays_as_it_was(
    spawner: SpawnerHost, host_accounts: Accounts, room: str
) -> None:
    hostile = host_accounts.add(f"h{room}")
    canary = spawner.home / f"canary-{room}"
    canary.mkdir(mode=0o700)
    assert spawner.launch(hostile.pw_uid)[0].code == STARTED
    own = spawner.users / str(hostile.pw_uid)
    (own / room).rename(own / "aside")
    (own / room).symlink_to(canary)

    answer, _ = spawner.launch(hostile.pw_uid)

    assert answer.code == HOST
    assert list(canary.iterdir()) == []


def test_directory_when_it_belongs_to_another_user_then_the_request_is_refused(
    spawner: SpawnerHost, host_accounts: Accounts
) -> None:
    late = host_accounts.add("late")
    spawner.users.mkdir(exist_ok=True)
    (spawner.users / str(late.pw_uid)).mkdir()

    answer, _ = spawner.launch(late.pw_uid)

    assert answer.code == HOST
    assert "belongs to uid 0" in answer.words
