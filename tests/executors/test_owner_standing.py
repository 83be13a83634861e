"""Whether the owner of a job may still have jobs: by real accounts of this host, and without a spawner."""

from __future__ import annotations

import pwd
from typing import TYPE_CHECKING

import pytest

from stoker.config.access_section import AccessSettings
from stoker.executors.owner_standing import FRESH_MS, OwnerStanding
from stoker.process.run_roots import RunRoots
from tests.support.clocks import SetClock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

EVERYONE, NOBODY_ELSE = AccessSettings(users="everyone"), AccessSettings()
OTHER = next(one.pw_uid for one in pwd.getpwall() if one.pw_uid not in (0, 65_534))
NO_ACCOUNT = next(uid for uid in range(70_000, 80_000) if uid not in {one.pw_uid for one in pwd.getpwall()})


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def owners(clock: SetClock, tmp_path: Path) -> Iterator[OwnerStanding]:
    """Jobs run as their users, and there is no spawner that could be asked."""
    standing = OwnerStanding(
        clock, EVERYONE, RunRoots(tmp_path, tmp_path, submitter=True), str(tmp_path / "spawner.sock")
    )
    yield standing
    standing.close()


async def test_owner_when_the_settings_shut_it_out_then_it_is_barred_until_they_admit_it(owners: OwnerStanding) -> None:
    before = await owners.bar_of(OTHER)
    owners.use(NOBODY_ELSE)
    shut = await owners.bar_of(OTHER)
    owners.use(EVERYONE)
    after = await owners.bar_of(OTHER)

    assert (before, after) == (None, None)
    assert shut == f"uid {OTHER} may not use this daemon any more: [access] admits none of its groups"


async def test_owner_when_no_service_knows_the_group_of_the_settings_then_it_is_not_barred(
    owners: OwnerStanding,
) -> None:
    owners.use(AccessSettings(users="group", group="no-such-group-of-ours"))

    assert await owners.bar_of(OTHER) is None


async def test_owner_when_a_look_is_recent_then_no_further_one_is_made(owners: OwnerStanding, clock: SetClock) -> None:
    first = owners.admits(OTHER)
    assert await owners.bar_of(OTHER) is None
    soon = owners.admits(OTHER)
    clock.steady += FRESH_MS
    later = owners.admits(OTHER)

    assert (first, soon, later) == (False, True, False)


async def test_owner_when_it_is_root_or_has_no_account_then_the_settings_do_not_bar_it(owners: OwnerStanding) -> None:
    owners.use(NOBODY_ELSE)

    assert owners.admits(0)
    assert await owners.bar_of(NO_ACCOUNT) is None
