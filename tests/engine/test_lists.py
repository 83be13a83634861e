"""Lists of jobs by every filter, as a person asks for them, and wrong filters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from stoker.cli.kit.selection import REASONS
from stoker.core.errors import StokerError
from stoker.core.job.model import Reason
from tests.support.flows import flow_end, sent_flow, step
from tests.support.work import end_of, shell, submit

if TYPE_CHECKING:
    import stoker
    from tests.support.daemon import DaemonProcess


def listed(daemon: DaemonProcess, *options: str) -> list[int]:
    done = daemon.cli("ls", "--ids", *options)
    assert done.returncode == 0, done.stderr
    return [int(line) for line in done.stdout.split()]


def test_ls_when_any_filter_is_given_then_only_matching_jobs_are_listed(
    shared: DaemonProcess, client: stoker.Client
) -> None:
    failed = submit(client, shell("exit 7 # Needle", name="lists-a"))
    done = submit(client, shell("exit 0", name="lists-b"))
    for job in (failed, done):
        end_of(client, job)
    workflow = sent_flow(client, {"a": step("exit 0")})
    flow_end(client, workflow)
    (own,) = client.call("job.list", {"workflow": workflow})["jobs"]

    assert listed(shared, "--search", "needle") == [failed]
    assert listed(shared, "--name-prefix", "lists-") == [done, failed]
    assert listed(shared, "--exit-code", "7", "--why", "exit,signal") == [failed]
    assert listed(shared, "--workflow", str(workflow)) == [own["id"]]
    assert listed(shared, "--name", "lists-b", "--since", "1h", "--ended-since", "1h") == [done]
    assert listed(shared, "--name", "lists-b", "--until", "1h") == []
    assert listed(shared, "--name", "lists-b", "--ended-until", "1h") == []


def test_reasons_when_a_list_is_filtered_by_one_then_all_that_exist_are_known() -> None:
    assert sorted(REASONS) == sorted(reason.value for reason in Reason)


AT = 1_700_000_000_000
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"search": ""}, "search"),
    ({"search": "x" * 201}, "search"),
    ({"name_prefix": ""}, "name_prefix"),
    ({"workflow": 0}, "workflow"),
    ({"reasons": ["bad luck"]}, "reasons[0]"),
    ({"exit_code": 256}, "exit_code"),
    ({"created_since": 5}, "created_since"),
    ({"created_since": AT, "created_until": AT - 1}, "created_until"),
    ({"ended_since": AT, "ended_until": AT - 1}, "ended_until"),
    ({"queue": "nowhere"}, "queue"),
    ({"since": AT}, "since"),
]


@pytest.mark.parametrize(("wanted", "path"), WRONG, ids=[str(one[0])[:40] for one in WRONG])
def test_list_when_a_filter_is_wrong_then_the_error_names_it(
    client: stoker.Client, wanted: dict[str, Any], path: str
) -> None:
    with pytest.raises(StokerError) as refused:
        client.call("job.list", wanted)

    assert refused.value.details["path"] == path


COMMANDS = {
    "no id": (["--workflow", "x"], "--workflow"),
    "no reason": (["--why", "luck"], "--why: 'luck' is not one of exit, signal"),
    "no number": (["--exit-code", "many"], "--exit-code"),
    "the future": (["--since", "2099-01-01T00:00"], "is not in the past"),
}


@pytest.mark.parametrize(("options", "words"), COMMANDS.values(), ids=COMMANDS)
def test_ls_when_an_option_is_wrong_then_it_is_refused(shared: DaemonProcess, options: list[str], words: str) -> None:
    done = shared.cli("ls", *options)

    assert done.returncode == 64
    assert words in done.stderr
