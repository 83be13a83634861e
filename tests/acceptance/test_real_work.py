"""Real work: one job for every file of Python's standard library, compared with the same results computed here.

Half of the jobs run `sha256sum`, half run `gzip` for a compressed size, each half in a queue of its own; every fiftieth
job fails twice before it succeeds. Each run of a worker writes a line into a ledger, which shows from outside what ran
twice, or never.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sysconfig
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.support.daemon import DaemonProcess

if TYPE_CHECKING:
    import stoker
    from stoker.core.wire_types import JobSpec

LIBRARY = Path(sysconfig.get_path("stdlib"))
FAILS_TWICE = 50  # every so many-th job
SETTINGS = """
[queues.digests]
class = "high"
max_running = 8

[queues.sizes]
class = "low"
max_running = 4

[cpu]
throttle_threshold = 100
"""

# One line in the ledger for each run; the third of a flaky file is the first that goes on to compute.
COMPUTE = {
    "digests": 'sha256sum "$2" | cut -d " " -f 1',
    "sizes": 'gzip --best --no-name --stdout "$2" | wc -c',
}
SCRIPT = """
echo "$2" >> "$1"
[ "$3" = 0 ] || [ "$(grep --count --line-regexp --fixed-strings "$2" "$1")" -ge 3 ] || exit 75
{compute}
"""


class Task(NamedTuple):
    """A job, its expected result, and the number of runs that it takes."""

    file: Path
    queue: str
    runs: int

    def spec(self, ledger: Path) -> JobSpec:
        script = SCRIPT.format(compute=COMPUTE[self.queue])
        return {
            "command": "/bin/sh",
            "args": ["-eu", "-c", script, "sh", str(ledger), str(self.file), str(self.runs - 1)],
            "queue": self.queue,
            "max_attempts": self.runs,
            "base_delay_ms": 50,
            "name": self.file.name,
        }

    def expected(self) -> str:
        if self.queue == "digests":
            return hashlib.sha256(self.file.read_bytes()).hexdigest()
        return str(len(subprocess.run(["gzip", "--best", "--no-name", "--stdout", self.file],
                                      check=True, capture_output=True).stdout))  # fmt: skip


def tasks() -> list[Task]:
    files = sorted(path for path in LIBRARY.rglob("*.py") if "site-packages" not in path.parts and path.is_file())
    return [
        Task(file, "digests" if number % 2 else "sizes", 3 if number % FAILS_TWICE == 0 else 1)
        for number, file in enumerate(files)
    ]


def views(client: stoker.Client) -> dict[int, dict[str, Any]]:
    """Every job the daemon knows, page by page."""
    jobs: dict[int, dict[str, Any]] = {}
    before = None
    while True:
        page = client.list(limit=1000, before=before)
        jobs |= {job["id"]: dict(job) for job in page["jobs"]}
        before = page["next"]
        if before is None:
            return jobs


def test_library_when_jobs_compute_each_file_then_all_are_right_and_run_once(
    shared: DaemonProcess,
) -> None:
    ledger = shared.home / "ledger"
    given = tasks()

    with shared.client() as client:
        answers = client.submit_many(task.spec(ledger) for task in given)
        ids = [answer["id"] for answer in answers if "error" not in answer]
        client.wait(*ids)
        jobs = views(client)

    assert len(set(ids)) == len(given)
    wrong = [
        (task.file, jobs[job]["state"], log)
        for task, job in zip(given, ids, strict=True)
        if (log := Path(jobs[job]["log"]).read_text().strip()) != task.expected() or jobs[job]["state"] != "succeeded"
    ]
    assert wrong == []
    assert Counter(ledger.read_text().splitlines()) == {str(task.file): task.runs for task in given}
    assert [jobs[job]["attempts"] for job in ids] == [task.runs for task in given]


def test_log_when_followed_live_then_each_line_is_seen_before_the_worker_may_go_on(shared: DaemonProcess) -> None:
    steps = ["1", "2", "3"]
    gates = {f"step {step}": shared.home / f"gate.{step}" for step in steps}
    for gate in gates.values():
        os.mkfifo(gate)
    script = 'for step; do echo "step $step"; read -r answer < "gate.$step"; echo "heard $answer"; done'

    seen: list[str] = []
    with shared.client() as client:
        job = client.submit("/bin/bash", "-c", script, "bash", *steps, working_dir=str(shared.home))
        for chunk in client.logs(job["id"], follow=True):
            seen += chunk.decode().splitlines()
            if seen[-1] in gates:
                gates[seen[-1]].write_text(f"{seen[-1]} seen\n")

    assert seen == [line for step in steps for line in (f"step {step}", f"heard step {step} seen")]
