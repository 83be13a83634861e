"""`stoker rate` and the rate of a queue against a real daemon: typed, shown, refused, explained."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support.daemon import DaemonProcess


def test_rate_when_it_is_set_then_it_is_shown_used_explained_and_removed(shared: DaemonProcess) -> None:
    assert shared.cli("rate", "set", "api", "1/d", "--burst", "2").stdout == "rate of api: 1/d, burst 2\n"
    assert shared.cli("rate", "set", "api", "--burst", "1").stdout == "rate of api: 1/d, burst 1\n"
    assert shared.cli("rate", "set", "*", "5/m").stdout == "rate of *: 5/m, burst 1\n"
    rows = [line.split() for line in shared.cli("rate").stdout.splitlines()[1:]]
    assert rows == [["*", "5/m", "1", "each", "key", "-"], ["api", "1/d", "1", "1", "now"]]

    shared.cli("wait", shared.cli("submit", "--rate-key", "api", "--", "true").stdout.strip())
    job = shared.cli("submit", "--rate-key", "api", "--", "true").stdout.strip()

    assert [line.split()[:3] for line in shared.cli("ls").stdout.splitlines() if line.split()[0] == job] == [
        [job, "queued", "rate"]
    ]
    assert "rate_key 'api' may start 1/d; the next start is in 23h59m" in shared.cli("why", job).stdout
    assert "rate key     api" in shared.cli("show", job).stdout
    status = shared.cli("status").stdout
    assert re.search(r"^rate +api, 1/d, burst 1; the next start is in 23h59m$", status, re.MULTILINE)
    assert "5/m, burst 1, for each key without a rate of its own" in status
    assert json.loads(shared.cli("rate", "ls", "--json").stdout)[1]["tokens"] == 0
    assert shared.cli("rate", "rm", "*", "api").stdout == "rate of *: removed\nrate of api: removed\n"
    assert shared.cli("wait", job).returncode == 0


def test_rate_when_it_is_wrong_then_the_next_command_is_named(shared: DaemonProcess) -> None:
    unknown = shared.cli("submit", "--rate-key", "nobody", "--", "true")
    wrong = shared.cli("rate", "set", "api", "often")

    missing = shared.cli("rate", "set", "api")

    assert (missing.returncode, "missing RATE" in missing.stderr) == (64, True)
    assert unknown.returncode == 65
    assert "there is no rate for 'nobody'" in unknown.stderr
    assert "stoker rate set nobody 10/s" in unknown.stderr
    assert wrong.returncode == 65
    assert "'often' is not a rate" in wrong.stderr
    assert "10/s, 100/m" in wrong.stderr


def test_remove_when_a_later_key_is_wrong_then_the_removed_ones_are_printed(shared: DaemonProcess) -> None:
    shared.cli("rate", "set", "gone", "1/s")

    removed = shared.cli("rate", "rm", "gone", "nope")

    assert (removed.returncode, removed.stdout) == (65, "rate of gone: removed\n")
    assert "'nope' has no rate" in removed.stderr


def test_queue_when_it_gets_a_rate_then_the_queue_is_shown_with_it(shared: DaemonProcess) -> None:
    answer = shared.cli("queue", "set", "mails", "--rate", "100/m", "--burst", "20").stdout

    assert answer == "queue mails open, class normal, rate 100/m, burst 20\n"
    assert "rate of mails  100/m, burst 20; 20 may start now" in shared.cli("queue").stdout
    assert "rate" not in shared.cli("queue", "set", "mails", "--rate", "none").stdout
