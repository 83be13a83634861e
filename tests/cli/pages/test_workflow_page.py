"""The pages of workflows: the list, the graph that follows the steps, and what may be done from them."""

from __future__ import annotations

import re
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.flows import chain, flow_end, job_of, sent_flow, settled, step, step_states, workflow_view
from tests.support.work import end_of

if TYPE_CHECKING:
    import stoker
    from tests.support.daemon import DaemonProcess
    from tests.support.web_page import Browser
    from tests.support.work import Gate

BOX = re.compile(r'<a id="node-([^"]+)" href="([^"]+)" class="state-(\w+)"')


def boxes(page: str) -> dict[str, str]:
    """The state of each box of the graph, by its name."""
    return {name: state for name, _, state in BOX.findall(page)}


def ended_flow(client: stoker.Client, steps: dict[str, dict[str, Any]]) -> int:
    workflow = sent_flow(client, steps)
    flow_end(client, workflow)
    return workflow


def test_list_when_a_state_is_chosen_then_only_its_workflows_are_shown(shared: DaemonProcess, browser: Browser) -> None:
    with shared.client() as client:
        bad = ended_flow(client, {"a": step("exit 3")})
        good = ended_flow(client, {"a": step("true")})

    shown = browser.get("/workflows?state=failed")

    assert f'href="/workflows/{bad}"' in shown
    assert f'href="/workflows/{good}"' not in shown
    assert f'href="/workflows/{good}"' in browser.get("/workflows")


def test_list_when_a_label_is_chosen_then_only_its_workflows_are_shown(shared: DaemonProcess, browser: Browser) -> None:
    with shared.client() as client:
        blue = client.submit_workflow({"name": "b", "steps": {"a": step("true")}, "labels": {"team": "<b>lue"}})["id"]
        other = ended_flow(client, {"a": step("true")})

    shown = browser.get("/workflows?label=team%3D%3Cb%3Elue")

    assert f'href="/workflows/{blue}"' in shown
    assert f'href="/workflows/{other}"' not in shown
    assert '<a href="/workflows?label=team%3D%3Cb%3Elue"><bdi>team=&lt;b&gt;lue</bdi></a>' in shown
    assert "team=&lt;b&gt;lue" in browser.get(f"/workflows/{blue}")


def test_workflow_when_a_step_failed_then_its_page_says_why_and_draws_each_step(
    shared: DaemonProcess, browser: Browser
) -> None:
    with shared.client() as client:
        last = {**step("true", "a"), "if": "needs.a.exit_code == 0"}
        workflow = ended_flow(client, {"a": step("exit 3"), "b": last, "c": step("true")})
        job = job_of(client, workflow, "a")

    shown = browser.get(f"/workflows/{workflow}")

    assert boxes(shown) == {"a": "failed", "b": "skipped", "c": "succeeded"}
    assert "a exited with 3" in shown
    assert f'<a href="/jobs/{job}">{job}</a>' in shown
    assert "✗ failed" in shown
    assert "b: skipped, if needs.a.exit_code == 0</title>" in shown
    assert "<bdi>if needs.a.exit_code == 0</bdi>" in shown


def test_workflow_when_its_steps_go_on_then_an_open_page_follows(
    shared: DaemonProcess, browser: Browser, gate: Gate
) -> None:
    with shared.client() as client:
        workflow = sent_flow(client, {"a": gate.spec(), "b": step("exit 1", "a"), "c": step("true", "a")})
        with closing(browser.shows(f"/workflows/{workflow}")) as shows:
            first = boxes(next(show for show in shows if boxes(show).get("a") == "running"))
            gate.open()
            last = next(show for show in shows if boxes(show).get("b") == "failed" and "Why it failed" in show)

    assert first == {"a": "running", "b": "waiting", "c": "waiting"}
    assert boxes(last) == {"a": "succeeded", "b": "failed", "c": "succeeded"}


def test_workflow_when_no_step_failed_yet_then_a_retry_is_not_offered(
    shared: DaemonProcess, browser: Browser, gate: Gate
) -> None:
    with shared.client() as client:
        workflow = sent_flow(client, {"bad": step("exit 1"), "slow": gate.spec(), "fine": step("true")})
        end_of(client, job_of(client, workflow, "bad"))
        failing = browser.get(f"/workflows/{workflow}")
        calm = browser.get(f"/workflows/{sent_flow(client, {'slow': gate.spec()})}")
        gate.open()
        flow_end(client, workflow)

    assert "/retry-failed" in failing
    assert "/pause" in calm
    assert "/retry-failed" not in calm


def test_workflow_when_each_made_steps_then_one_box_leads_to_all_of_them(
    shared: DaemonProcess, browser: Browser
) -> None:
    with shared.client() as client:
        work = {**step("exit $(({{item}} == 2))"), "each": ["1", "2", "3"]}
        workflow = ended_flow(client, {"work": work, "other": step("true")})

    shown = browser.get(f"/workflows/{workflow}")
    (link,) = [link for name, link, _ in BOX.findall(shown) if name == "work"]
    of_work = browser.get(link.replace("&amp;", "&"))

    assert boxes(shown) == {"work": "failed", "other": "succeeded"}
    assert "2 succeeded, 1 failed" in shown
    assert "Steps of work: 1 to 3 of 3" in of_work
    assert "<bdi>work[2]</bdi>" in of_work
    assert "<bdi>other</bdi>" not in of_work


def test_workflow_when_groups_are_large_then_each_has_a_row_that_leads_to_its_steps(
    shared: DaemonProcess, browser: Browser
) -> None:
    items = ["a/b", "x=1", *(f"i{number}" for number in range(120))]
    with shared.client() as client:
        client.call("queue.pause", {"name": "default"})
        workflow = sent_flow(client, {"work": {**step("true"), "each": items}, "end": step("true", "work")})
        shown = browser.get(f"/workflows/{workflow}")
        each = browser.get(f"/workflows/{workflow}?each=1")
        of_work = browser.get(f"/workflows/{workflow}?part=work")
        stuck = shared.cli("workflow", "show", str(workflow)).stdout
        one = browser.get(f"/workflows/{workflow}/skip-step?step=work%5Ba/b%5D")
        skipped = browser.post(f"/workflows/{workflow}/skip-step?step=work", reason="by hand")
        client.call("queue.resume", {"name": "default"})
        settled(client, workflow, "succeeded")

    assert "Steps: 1 to 2 of 2 rows; a group of steps has one" in shown
    assert f'<a href="/workflows/{workflow}?part=work#steps"><bdi>work x122</bdi></a>' in shown
    assert f"/workflows/{workflow}/skip-step?step=work" in shown
    assert "<bdi>work[a/b]</bdi></a> waits, <bdi>queue &#39;default&#39; is paused</bdi>" in shown
    assert '(<a href="/queues/default">queue' in shown
    assert "waits     work[a/b]: queue 'default' is paused (stoker queue resume default)\n" in stuck
    assert "Steps: 1 to 100 of 123" in each
    assert "Steps of work: 1 to 100 of 122" in of_work
    assert "skip-step?step=work%5Ba/b%5D" in of_work
    assert f"step work[a/b] of workflow {workflow}" in one
    assert "work x122" in skipped


def test_workflow_when_it_waits_for_no_queue_then_its_page_says_for_what(
    shared: DaemonProcess, browser: Browser
) -> None:
    with shared.client() as client:
        workflow = sent_flow(client, {"a": {**step("true"), "wait_for": "event:go"}})
        shown = browser.get(f"/workflows/{workflow}")
        client.call("workflow.cancel", {"id": workflow})

    assert re.search(r"<bdi>a</bdi></a> waits, <bdi>has waited \S+ for event:go</bdi>", shown)


def test_workflow_when_it_has_ten_thousand_steps_then_its_page_stays_small(
    shared: DaemonProcess, browser: Browser
) -> None:
    steps = {"root": step("true")} | {
        f"s{n}": step("true", f"s{n - 250}" if n >= 250 else "root") for n in range(9_999)
    }
    with shared.client() as client:
        client.call("queue.pause", {"name": "default"})
        workflow = sent_flow(client, steps)
        shown = browser.get(f"/workflows/{workflow}")
        later = browser.get(f"/workflows/{workflow}?from=9901")
        client.call("workflow.cancel", {"id": workflow})
        client.call("queue.resume", {"name": "default"})

    assert len(shown.encode()) < 300_000
    assert len(boxes(shown)) == 41
    assert "Steps: 1 to 100 of 10000" in shown
    assert "Steps: 9901 to 10000 of 10000" in later


def test_retry_when_its_form_is_sent_then_what_it_named_runs_again(shared: DaemonProcess, browser: Browser) -> None:
    with shared.client() as client:
        workflow = ended_flow(client, {"a": step("exit 3"), "b": step("true", "a"), "c": step("true")})
        form = browser.get(f"/workflows/{workflow}/retry-failed")

        browser.post(f"/workflows/{workflow}/retry-failed", reason="disk was full")

        assert "queued again (2 steps): a b" in form
        flow_end(client, workflow)
        assert {one["name"]: one["attempts"] for one in workflow_view(client, workflow)["steps"]} == {
            "a": 2,
            "b": 0,
            "c": 1,
        }


def test_step_when_it_is_skipped_then_the_steps_behind_it_run(shared: DaemonProcess, browser: Browser) -> None:
    with shared.client() as client:
        workflow = ended_flow(client, {"a": step("exit 3"), "b": step("true", "a")})
        form = browser.get(f"/workflows/{workflow}/skip-step?step=a")

        browser.post(f"/workflows/{workflow}/skip-step?step=a", reason="checked by hand")

        assert "run after all (1 step): b" in form
        settled(client, workflow, "succeeded")
        assert step_states(client, workflow) == {"a": "skipped", "b": "succeeded"}


def test_resume_when_it_is_previewed_then_the_plan_of_the_daemon_is_shown(
    shared: DaemonProcess, browser: Browser
) -> None:
    with shared.client() as client:
        workflow = ended_flow(client, {"a": step("exit 3"), "b": step("true", "a"), "c": step("true")})
        before = chain(client, workflow=workflow)

        form = browser.get(f"/workflows/{workflow}/resume")
        from_start = browser.get(f"/workflows/{workflow}/resume?restart=1")

        assert "keep: it was completed (1 step): c" in form
        assert "from checkpoint: it ended as failed" in form
        assert "restart: it ended as failed" in from_start
        assert f'href="/workflows/{workflow}/resume?restart=1"' in form
        assert chain(client, workflow=workflow) == before


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/workflows/0", 400, "is no id"),
        ("/workflows/x", 400, "is no id"),
        ("/workflows/99999999", 404, "there is no workflow 99999999"),
        ("/workflows/99999999/cancel", 404, "there is no workflow 99999999"),
        ("/workflows?before=-1", 400, "is no id"),
    ],
)
def test_workflow_when_its_id_is_bad_then_the_page_names_the_mistake(
    browser: Browser, path: str, status: int, words: str
) -> None:
    assert words in browser.get(path, status)


def test_step_when_its_name_is_bad_then_the_form_names_the_mistake(shared: DaemonProcess, browser: Browser) -> None:
    with shared.client() as client:
        workflow = ended_flow(client, {"a": step("true")})

    assert "has no step &#39;nope&#39;" in browser.get(f"/workflows/{workflow}/skip-step?step=nope", 404)
    assert "names no step" in browser.get(f"/workflows/{workflow}/skip-step", 400)
    assert "<b>" not in browser.get(f"/workflows/{workflow}?part=<b>&state=<b>")
