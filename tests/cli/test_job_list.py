"""The rows of the screen and what it asks for next, without a daemon: changes and answers in every order."""

from __future__ import annotations

from typing import Any

import pytest

from stoker.cli.screen import job_list
from stoker.cli.screen.job_list import JobList, ListRequest
from stoker.cli.screen.query import Query
from stoker.cli.screen.rows import JOB_COLUMNS, SORT_KEYS, Order, row_of
from stoker.core.errors import UsageError
from tests.cli.conftest import AT_MS, view


def change(job: int, before: str | None, state: str) -> Any:
    return {"job": job, "from": before, "to": state, "at": AT_MS}


def page(*jobs: dict[str, Any], following: int | None = None) -> dict[str, Any]:
    return {"jobs": list(jobs), "next": following}


def asked(jobs: JobList) -> ListRequest:
    request = jobs.next_request([])
    assert request is not None
    return request


def answer_all(jobs: JobList, *views: dict[str, Any]) -> list[ListRequest]:
    """Answer as a daemon that has these jobs, until nothing is asked for; the requests."""
    requests = []
    while (request := jobs.next_request([])) is not None:
        requests.append(request)
        if request.kind == "one":
            jobs.add(request, next((one for one in views if one["id"] == request.params["id"]), None))
        else:
            jobs.add(request, page(*(one for one in views if one["state"] in request.params["states"])))
    return requests


def states(jobs: JobList) -> dict[int, str]:
    return {row.id: row.state for row in jobs.rows.values()}


def test_a_list_when_all_is_answered_then_it_asks_for_nothing_until_a_change() -> None:
    jobs = JobList(Query())
    answer_all(jobs, view(1), view(2, "waiting"))
    assert jobs.loaded
    jobs.tick()
    assert jobs.next_request([]) is None
    jobs.apply([change(3, None, "queued")])
    request = asked(jobs)
    assert (request.kind, request.params["after"]) == ("live", 2)


def test_running_jobs_when_a_second_has_passed_then_only_they_are_read_again() -> None:
    jobs = JobList(Query())
    answer_all(jobs, view(1), view(2, "running"))
    jobs.tick()
    requests = answer_all(jobs, view(1), view(2, "running", progress=40))
    assert [(request.kind, request.params["states"]) for request in requests] == [("running", ["running"])]
    assert jobs.rows[2].says == "40%"


def test_an_answer_when_a_job_ended_on_its_way_then_the_job_does_not_come_back() -> None:
    jobs = JobList(Query())
    answer_all(jobs, view(1, "running"))
    jobs.tick()
    request = asked(jobs)
    jobs.apply([change(1, "running", "succeeded")])
    jobs.add(request, page(view(1, "running")))
    assert states(jobs) == {}


def test_an_answer_when_a_job_changed_on_its_way_then_the_newer_state_is_read() -> None:
    jobs = JobList(Query())
    answer_all(jobs, view(1, "running"))
    jobs.tick()
    request = asked(jobs)
    jobs.apply([change(1, "running", "waiting")])
    jobs.add(request, page(view(1, "running")))
    assert states(jobs) == {1: "waiting"}
    requests = answer_all(jobs, view(1, "waiting", failures=1))
    assert [request.params for request in requests if request.kind == "one"] == [{"id": 1}]


def test_a_job_when_an_answer_on_its_way_lacks_it_then_it_is_asked_for() -> None:
    jobs = JobList(Query())
    jobs.tick()
    requests = []
    while (request := jobs.next_request([])) is not None:
        requests.append(request)
        if request.kind == "live" and len(requests) < 4:
            jobs.apply([change(9, None, "queued")])
            jobs.add(request, page())
        else:
            jobs.add(request, page(*([view(9)] if request.kind == "live" else [])))
    assert states(jobs) == {9: "queued"}


def test_an_ended_job_when_it_is_retried_then_it_appears_among_the_live_ones() -> None:
    jobs = JobList(Query())
    answer_all(jobs)
    assert jobs.apply([change(5, "failed", "waiting")])
    answer_all(jobs, view(5, "waiting"))
    assert states(jobs) == {5: "waiting"}


def test_jobs_when_too_many_unknown_ones_come_back_then_all_is_to_be_read_again() -> None:
    jobs = JobList(Query())
    answer_all(jobs)
    strangers = [change(job, "failed", "waiting") for job in range(1, job_list.MOST_STRANGERS + 2)]
    assert jobs.apply(strangers[:-1])
    assert not jobs.apply(strangers[-1:])


def test_jobs_when_a_query_does_not_select_their_new_state_then_they_leave() -> None:
    jobs = JobList(Query("held"))
    answer_all(jobs, view(1, "held"), view(2, "held"))
    jobs.apply([change(1, "held", "queued"), change(3, "queued", "held")])
    answer_all(jobs, view(3, "held"))
    assert states(jobs) == {2: "held", 3: "held"}


def test_known_rows_when_the_daemon_does_not_have_them_any_more_then_they_leave() -> None:
    known = [row_of(view(1, "running")), row_of(view(2))]  # type: ignore[arg-type]
    jobs = JobList(Query(), known)
    assert states(jobs) == {1: "running", 2: "queued"}
    answer_all(jobs, view(2))
    assert states(jobs) == {2: "queued"}


def test_ended_jobs_when_they_are_more_than_a_page_then_older_ones_come_when_wanted() -> None:
    jobs = JobList(Query("ended"))
    request = asked(jobs)
    jobs.add(request, page(view(9, "failed"), following=9))
    assert jobs.next_request([]) is None
    jobs.want_older()
    request = asked(jobs)
    assert (request.kind, request.params["before"]) == ("older", 9)
    jobs.add(request, page(view(3, "succeeded")))
    jobs.want_older()
    assert jobs.next_request([]) is None
    jobs.apply([change(12, "running", "failed")])
    assert asked(jobs).kind == "newest"


def test_live_jobs_when_they_are_more_than_can_be_kept_then_some_are_left_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_list, "MOST_LIVE", 2)
    jobs = JobList(Query())
    for _ in range(2):
        request = asked(jobs)
        jobs.add(request, page(*([view(1), view(2)] if request.kind == "live" else []), following=2))
    assert jobs.next_request([]) is None
    assert jobs.live_left_off
    jobs.apply([change(1, "queued", "cancelled")])
    assert asked(jobs).params["after"] == 2


def test_changed_jobs_when_they_are_many_then_visible_ones_come_first_and_few_a_tick() -> None:
    jobs = JobList(Query())
    many = range(1, 3 * job_list.MOST_LOOKUPS)
    answer_all(jobs, *map(view, many))
    jobs.apply([change(job, "queued", "held") for job in many])
    request = jobs.next_request([7])
    assert request is not None
    assert request.params == {"id": 7}
    jobs.add(request, view(7, "held"))
    assert len(answer_all(jobs, *(view(job, "held") for job in many))) == job_list.MOST_LOOKUPS - 1
    jobs.tick()
    assert len(answer_all(jobs, *(view(job, "held") for job in many))) == job_list.MOST_LOOKUPS


@pytest.mark.parametrize("column", [column.name for column in JOB_COLUMNS])
def test_an_order_when_its_column_is_chosen_again_then_it_turns_and_then_ends(column: str) -> None:
    rows = [row_of(view(job, state)) for job, state in ((1, "queued"), (2, "running"), (3, "failed"))]  # type: ignore[arg-type]
    order = Order().after_choice(column)
    turned = order.after_choice(column)
    assert (order.column, turned.reverse, turned.after_choice(column)) == (column, not order.reverse, Order())
    values = [SORT_KEYS[column](row, AT_MS) for row in order.sort(rows, AT_MS)]
    assert values == sorted(values, reverse=order.reverse)
    assert [row.id for row in Order().sort(rows, AT_MS)] == [2, 1, 3]


def test_a_filter_when_it_has_fields_and_words_then_the_daemon_gets_the_fields() -> None:
    query = Query().with_text(" queue:bulk label:team=blue Nightly ")
    assert query.fields == {"queue": "bulk", "label": "team=blue"}
    assert query.words == ("nightly",)
    fitting = row_of(view(1, queue="bulk", labels={"team": "blue"}, name="the nightly one"))  # type: ignore[arg-type]
    assert query.selects(fitting)
    assert query.has_words(fitting)
    assert not query.selects(fitting._replace(labels={}))
    assert not query.has_words(fitting._replace(title="another"))


@pytest.mark.parametrize("text", ["queue:", "label:team", "name:"])
def test_a_filter_when_a_field_has_no_value_then_it_is_refused_with_its_form(text: str) -> None:
    with pytest.raises(UsageError, match=f"{text}.*type"):
        Query().with_text(text)
