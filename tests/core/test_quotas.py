"""The limits of a user, and the error when one is reached."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.core.errors import QuotaReached
from stoker.core.quota_words import COUNTED
from stoker.core.quotas import HINTS, NO_QUOTA, NO_QUOTAS, Quota, Quotas

ANN, BEN, SERVICE = 1_001, 1_002, 900
QUOTAS = Quotas(usual=Quota(max_queued=5), of_user={BEN: Quota(max_running=2)}, spared={0, SERVICE})


def test_quota_when_a_user_is_named_then_it_has_its_own_and_others_the_usual() -> None:
    assert QUOTAS.of(ANN) == Quota(max_queued=5)
    assert QUOTAS.of(BEN) == Quota(max_running=2)
    assert [QUOTAS.of(uid) for uid in (0, SERVICE)] == [NO_QUOTA, NO_QUOTA]
    assert (QUOTAS.bound_running, NO_QUOTAS.bound_running) == (True, False)
    assert [Quotas(usual=Quota(**{name: 1})).bound_bytes for name in Quota.__struct_fields__] == [
        name.endswith("_bytes") for name in Quota.__struct_fields__
    ]


def test_quota_when_root_is_named_then_its_own_limits_count() -> None:
    assert Quotas(of_user={0: Quota(max_queued=1)}, spared={0}).of(0) == Quota(max_queued=1)


@pytest.mark.parametrize("used", [0, 4])
def test_check_when_it_fits_then_nothing_is_refused(used: int) -> None:
    QUOTAS.of(ANN).check("max_queued", ANN, used)
    NO_QUOTA.check("max_queued", ANN, used)


@pytest.mark.parametrize("name", HINTS)
def test_check_when_a_limit_is_reached_then_user_use_limit_and_command_are_named(name: str) -> None:
    with pytest.raises(QuotaReached) as refused:
        Quota(**{name: 3}).check(name, ANN, 3)

    assert refused.value.message == f"uid 1001 has 3 of at most 3 {COUNTED[name]} ({name} in [quotas])"
    assert "stoker limits" in str(refused.value.hint)
    assert (refused.value.details["quota"], refused.value.details["limit"]) == (name, 3)


def test_check_when_the_limit_is_of_schedules_then_no_time_promises_room() -> None:
    """Jobs and workflows end by themselves; a schedule stays until it is removed."""
    with pytest.raises(QuotaReached) as schedules:
        Quota(max_schedules=1).check("max_schedules", ANN, 1)
    with pytest.raises(QuotaReached) as jobs:
        Quota(max_queued=1).check("max_queued", ANN, 1)

    assert "retry_after_ms" not in schedules.value.details
    assert jobs.value.details["retry_after_ms"] > 0


def test_words_when_a_limit_can_be_set_then_it_has_some() -> None:
    assert set(Quota.__struct_fields__) == set(HINTS) <= set(COUNTED)


def test_pace_when_a_second_is_not_paid_for_then_the_next_submit_waits() -> None:
    quota = Quota(max_submits_per_s=10)
    batch = quota.paid_at(0, 5_000, 25)
    quota.check_pace(ANN, 0, 5_000)

    with pytest.raises(
        QuotaReached, match=r"uid 1001 submits faster than 10 jobs a second \(max_submits_per_s"
    ) as soon:
        quota.check_pace(ANN, batch, 5_000)

    assert (soon.value.details["used"], soon.value.details["retry_after_ms"]) == (25, 1_501)
    quota.check_pace(ANN, batch, 5_000 + 1_501)
    assert (quota.unpaid(batch, 6_000), quota.unpaid(batch, 8_000)) == (15, 0)
    assert quota.paid_at(batch, 5_000, 10) - batch == 1_000_000_000


def test_pace_when_there_is_no_limit_then_nothing_is_counted() -> None:
    NO_QUOTA.check_pace(ANN, 10**18, 0)
    assert (NO_QUOTA.paid_at(0, 0, 10**6), NO_QUOTA.unpaid(10**18, 0)) == (0, 0)


@given(st.integers(1, 1_000), st.lists(st.tuples(st.integers(0, 2_000), st.integers(1, 50)), max_size=60))
def test_pace_when_submits_come_at_any_time_then_the_limit_holds(most: int, submits: list[tuple[int, int]]) -> None:
    """Over all of the time: a second's worth before, the limit of each second, and what the last request was larger."""
    quota, now, paid_at, passed, largest = Quota(max_submits_per_s=most), 0, 0, 0, 0
    for pause, jobs in submits:
        now += pause
        try:
            quota.check_pace(ANN, paid_at, now)
        except QuotaReached:
            continue
        paid_at, passed, largest = quota.paid_at(paid_at, now, jobs), passed + jobs, max(largest, jobs)

    assert passed <= most + most * now / 1_000 + largest + 1
