"""The list of jobs: filter, search, pages, and one action on many."""

from __future__ import annotations

import re
from html import unescape
from typing import TYPE_CHECKING

import pytest

from tests.support.work import changes, end_of, shell, state, submit, submit_many

if TYPE_CHECKING:
    import stoker
    from tests.support.web_page import Browser

SETTINGS = "[queues.stopped]\npaused = true\n"
ROW = re.compile(r'<tr id="job-(\d+)">')


def shown(page: str) -> list[int]:
    return [int(number) for number in ROW.findall(page)]


def link(page: str, rel: str) -> str | None:
    found = re.search(rf'href="([^"]+)" rel="{rel}"', page)
    return unescape(found[1]) if found else None


def test_list_when_it_has_many_pages_then_older_and_newer_lead_to_each_job_once(
    client: stoker.Client, browser: Browser
) -> None:
    specs = [shell("exit 0", queue="stopped", name="paged") for _ in range(120)]
    ids = [answer["id"] for answer in submit_many(client, specs)][::-1]
    first = browser.get("/jobs?name=paged")
    pages = [first]

    while older := link(pages[-1], "next"):
        pages.append(browser.get(older))
    back = [pages[-1]]
    while newer := link(back[-1], "prev"):
        back.append(browser.get(newer))

    assert [number for page in pages for number in shown(page)] == ids
    assert [number for page in reversed(back[:3]) for number in shown(page)] == ids
    assert shown(browser.get("/jobs?name=paged&rows=200")) == ids


@pytest.mark.parametrize("query", ["search=NEEDLE", "label=in%3Dlist", "name=found", "search=needle&state=queued"])
def test_list_when_it_is_filtered_then_only_matching_jobs_are_shown(
    client: stoker.Client, browser: Browser, query: str
) -> None:
    job = submit(client, shell("echo a needle", queue="stopped", name="found", labels={"in": "list"}))
    submit(client, shell("echo hay", queue="stopped", name="other"))

    page = browser.get(f"/jobs?{query}")

    assert shown(page)[0] == job
    assert all("needle" in client.get(number)["args"][1] for number in shown(page))


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/jobs?state=done", "state: &#39;done&#39; is no state of a job"),
        ("/jobs?rows=1000", "rows: 1000 rows; the limit is 200"),
        ("/jobs?before=x", "before: &#39;x&#39; is no id"),
        ("/jobs?label=x", "label"),
        ("/jobs/chosen?act=job.cancel", "id: 0 jobs are chosen"),
        ("/jobs/chosen?act=job.edit&id=1", "act: &#39;job.edit&#39; is no action"),
        ("/jobs/chosen?act=job.cancel&id=-1", "is no id"),
        ("/jobs/chosen?act=job.cancel&" + "&".join(f"id={number}" for number in range(1, 202)), "id: 201 jobs"),
    ],
)
def test_list_when_its_address_is_wrong_then_the_page_names_the_mistake(
    browser: Browser, path: str, words: str
) -> None:
    assert words in browser.get(path, 400)


def test_chosen_jobs_when_the_form_is_sent_then_each_that_can_be_is_cancelled(
    client: stoker.Client, browser: Browser
) -> None:
    queued = [submit(client, shell("exit 0", queue="stopped")) for _ in range(2)]
    ended = submit(client, shell("exit 0"))
    end_of(client, ended)
    path = "/jobs/chosen?act=job.cancel&" + "&".join(f"id={job}" for job in (*queued, ended, 2**62))

    form = browser.get(path)
    done = browser.post(path, reason="not needed")

    assert '<select name="act" required>\n      <option value="">' in browser.get("/jobs")
    assert "nothing: cancel is for waiting, queued, running, held" in form
    assert f"there is no job {2**62}" in form
    assert [state(client, job) for job in (*queued, ended)] == ["cancelled", "cancelled", "succeeded"]
    assert [change["note"] for job in queued for change in changes(client, job, "cancel")] == ["not needed"] * 2
    assert done.count("<td>done</td>") == 2
