"""The pages of checkpoints: lists, data, differences, the steps at that time, and the way back to one."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from unicodedata import category

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.cli.pages import checkpoint_data
from tests.support.daemon import BIN
from tests.support.flows import chain, flow_end, job_of, sent_flow, settled, step, step_states
from tests.support.work import end_of, shell, submit

if TYPE_CHECKING:
    from typing import Any

    import stoker
    from tests.support.daemon import DaemonProcess
    from tests.support.web_page import Browser

SAVE = f"{BIN}/stoker checkpoint save --status"


def saved(client: stoker.Client, **of: int) -> list[dict[str, Any]]:
    """The checkpoints that programs saved, oldest first."""
    return [one for one in chain(client, **of) if one["kind"] == "progress"]


def trained(client: stoker.Client) -> int:
    """A workflow whose step saved twice and then failed, beside one that succeeded."""
    script = f"""printf '{{"epoch": 1, "lr": 2}}' | {SAVE} 'epoch 1'; printf '{{"epoch": 2, "lr": 2}}' | {SAVE} '<b>'"""
    workflow = sent_flow(client, {"first": step("true"), "train": step(f"{script}; exit 3", "first")})
    flow_end(client, workflow)
    return workflow


def test_checkpoints_when_a_step_saved_some_then_they_are_listed_and_compared(
    shared: DaemonProcess, browser: Browser
) -> None:
    with shared.client() as client:
        workflow = trained(client)
        old, new = [one["id"] for one in saved(client, workflow=workflow)]
        job = job_of(client, workflow, "train")

    listed = browser.get(f"/workflows/{workflow}/checkpoints")
    of_job = browser.get(f"/jobs/{job}/checkpoints")
    compared = browser.get(f"/checkpoints/diff?old={old}&new={new}")

    assert f'href="/checkpoints/diff?old={old}&amp;new={new}"' in listed
    assert "&lt;b&gt;" in listed
    assert ">first<" in listed
    assert ">first<" not in of_job
    assert f'href="/checkpoints/{new}"' in of_job
    assert re.findall(r'class="line-(?:added|removed)">(.*?)<', compared) == [
        "-  &#34;epoch&#34;: 1,",
        "+  &#34;epoch&#34;: 2,",
    ]


def test_checkpoint_when_it_is_opened_then_its_data_is_shown_and_can_be_kept(
    shared: DaemonProcess, browser: Browser
) -> None:
    size = 1_200_000  # in three pieces
    with shared.client() as client:
        job = submit(client, shell(f"head -c {size} /dev/zero | {SAVE} zeros; printf 'a\\033b' | {SAVE} text"))
        end_of(client, job)
        zeros, text = [one["id"] for one in saved(client, job=job)]

    shown, kept = browser.get(f"/checkpoints/{zeros}"), browser.http.get(f"/checkpoints/{zeros}/data")

    assert "bytes in hexadecimal, only the beginning" in shown
    assert "00000ff0  00 00" in shown
    assert kept.content == bytes(size)
    assert kept.headers["content-disposition"] == f'attachment; filename="checkpoint-{zeros}.bin"'
    assert "a^[b" in browser.get(f"/checkpoints/{text}")
    assert f'href="/checkpoints/{text}"' in browser.get(f"/jobs/{job}/checkpoints")
    assert "too large to be compared" in browser.get(f"/checkpoints/diff?old={zeros}&new={text}")


def test_list_when_there_are_many_checkpoints_then_pages_lead_to_all_of_them(
    shared: DaemonProcess, browser: Browser
) -> None:
    with shared.client() as client:
        job = submit(client, shell(f"for n in $(seq 3); do echo $n | {SAVE} $n; done"))
        end_of(client, job)
        first, *_, last = saved(client, job=job)

    older = browser.get(f"/jobs/{job}/checkpoints?before={last['seq']}")

    assert f'href="/checkpoints/{first["id"]}"' in older
    assert f'href="/checkpoints/{last["id"]}"' not in older


def test_rollback_when_its_form_is_sent_then_the_workflow_stands_as_it_was(
    shared: DaemonProcess, browser: Browser
) -> None:
    with shared.client() as client:
        workflow = trained(client)
        begin = chain(client, workflow=workflow)[0]["id"]
        path = f"/workflows/{workflow}/rollback?to={begin}"

        kept, redone = browser.get(path), browser.get(f"{path}&redo=1")
        then = browser.get(f"/checkpoints/{begin}/context")
        browser.post(f"{path}&redo=1", reason="bad input")

        assert "completed since then, and kept: their effects stay (1 step): first" in kept
        assert "completed since then, and run again (1 step): first" in redone
        assert "reset, to run again (1 step): train" in redone
        assert "has 2 of 2 steps in another state now" in then
        settled(client, workflow, "paused")
        assert step_states(client, workflow) == {"first": "queued", "train": "waiting"}


def test_rollback_when_the_checkpoint_is_of_another_workflow_then_it_is_refused(
    shared: DaemonProcess, browser: Browser
) -> None:
    with shared.client() as client:
        one, other = trained(client), trained(client)
        foreign = chain(client, workflow=other)[0]["id"]

    assert f"is not one of workflow {one}" in browser.get(f"/workflows/{one}/rollback?to={foreign}", 400)
    assert "names no checkpoint" in browser.get(f"/workflows/{one}/rollback", 400)


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/checkpoints/x", 400, "is no id"),
        ("/checkpoints/99999999", 404, "there is no checkpoint 99999999"),
        ("/checkpoints/99999999/data", 404, "there is no checkpoint 99999999"),
        ("/checkpoints/99999999/context", 404, "there is no checkpoint 99999999"),
        ("/checkpoints/diff?old=1&new=99999999", 404, "there is no checkpoint"),
        ("/checkpoints/diff?old=1&new=-2", 400, "is no id"),
        ("/workflows/99999999/checkpoints", 404, "there is no workflow 99999999"),
        ("/jobs/99999999/checkpoints", 404, "there is no job 99999999"),
    ],
)
def test_checkpoint_when_its_id_is_bad_then_the_page_names_the_mistake(
    browser: Browser, path: str, status: int, words: str
) -> None:
    assert words in browser.get(path, status)


@given(st.binary(max_size=300))
def test_data_when_it_is_of_any_bytes_then_no_control_character_is_shown(data: bytes) -> None:
    shown = checkpoint_data.shown(data, len(data))

    assert not shown.cut
    kinds = {category(letter) for letter in shown.text.replace("\n", "").replace("\t", "")}
    assert not kinds & {"Cc", "Cs", "Zl", "Zp"}  # control, surrogate, ends of lines and paragraphs


def test_data_when_its_json_is_nested_deep_then_indentation_does_not_swell_it() -> None:
    data = b"[" * 300 + b"1," * 30_000 + b"1" + b"]" * 300

    shown = checkpoint_data.shown(data, len(data))

    assert shown.text == data.decode()
    assert checkpoint_data.shown(b'{"a":[1]}', 9).text == '{\n  "a": [\n    1\n  ]\n}'


def test_data_when_a_character_is_cut_in_two_then_the_rest_is_text() -> None:
    data = ("é" * checkpoint_data.SHOWN_BYTES).encode()

    shown = checkpoint_data.shown(data[: checkpoint_data.SHOWN_BYTES + 1], len(data))

    assert (shown.form, shown.cut) == ("text", True)
    assert set(shown.text) == {"é"}


def test_hex_dump_when_bytes_are_not_printable_then_their_letters_are_dots() -> None:
    assert checkpoint_data.hex_dump(b"ab\x00" * 6).split("\n")[1] == f"00000010  62 00{' ' * 44}b."
