"""Clients that send anything for a while: the daemon answers all of it in time, and works afterwards.

It goes on until each method of the protocol was accepted once, backup and purge among them; then the newest backup is
restored, and the clients use that one. A daemon whose log has a slow turn fails its test when it is ended.
`STOKER_SEED` plays a run again, `STOKER_FAULTS` is the number of frames, in hundreds.
"""

from __future__ import annotations

import os
import random
import sys
from contextlib import suppress

import pytest

from stoker.core.errors import IdempotencyConflict
from tests.support import work
from tests.support.daemon import DaemonProcess
from tests.support.facts import until
from tests.support.fuzz import NAMES, Phrases, Talker

SAID = 100 * int(os.environ.get("STOKER_FAULTS", "8"))
MOST = 6 * SAID  # until each method was accepted
TALKERS = 12
SETTINGS = """
[daemon]
max_running = 8
[queues.q1]
max_queued = 50
[queues.resident]
[queues.parked]
[hooks.a]
on = ["daemon.restored"]
command = "true"
"""
PARKED = 6  # workflows of which no step starts
KEY = "k1"  # one of those that the crowd asks for
STEPS = {  # each with a need to remove, and with room for another
    f"s{number}": {"command": "true", "queue": "parked", "needs": [f"s{number - 1}"] if number else []}
    for number in range(6)
}


class Crowd:
    """Clients of one life of the daemon."""

    def __init__(self, daemon: DaemonProcess, seed: str) -> None:
        self._daemon = daemon
        self._dice = random.Random(seed)
        self.faults: list[str] = []
        self.accepted: set[str] = set()

    def speak(self, least: int, methods: set[str]) -> int:
        """Say at least so many things, and go on until each of these methods was accepted. Returns how many.

        Each round has jobs and workflows of its own: in the end those of an earlier one accept less and less.
        """
        talkers = [Talker(self._daemon.socket) for _ in range(TALKERS)]
        said = 0
        with self._daemon.client() as bystander:
            while said < least or (methods - self.accepted and said < MOST):
                if said % SAID == 0:
                    phrases = self._phrases()
                place = self._dice.randrange(TALKERS)
                talker = talkers[place]
                talker.say(*phrases.frame())
                if self._dice.random() < 0.8:  # else its answers pile up
                    talker.listen()
                self.accepted |= talker.accepted
                if talker.hung_up or self._dice.random() < 0.02:
                    self._dismiss(talker)
                    talkers[place] = Talker(self._daemon.socket)
                bystander.call("queue.list")
                said += 1
            for talker in talkers:
                self.faults += [f"no answer to {name}" for name in talker.settle()]
                self._dismiss(talker)
            assert bystander.call("system.health")["ok"]
        return said

    def _phrases(self) -> Phrases:
        """The words of the crowd, with the token of a job that runs, and workflows whose steps wait.

        Both are in queues that the crowd does not know.
        """
        home = self._daemon.home
        token = home / "token"
        token.unlink(missing_ok=True)
        script = f'printf %s "$STOKER_TOKEN" > {token}.new; mv {token}.new {token}; exec sleep 1000'
        with self._daemon.client() as client:
            job = work.submit(client, work.shell(script), queue="resident")
            with suppress(IdempotencyConflict):  # once the crowd has this key
                work.submit(client, {"command": "true"}, queue="resident", idempotency_key=KEY)
            client.call("queue.pause", {"name": "parked"})
            flow = {"name": "parked", "steps": STEPS}
            workflows = [client.call("workflow.submit", {"flow": flow})["id"] for _ in range(PARKED)]
        until(token.exists, why="the token of a job")
        return Phrases(self._dice, job, token.read_text(), workflows[0], home / "copy")

    def _dismiss(self, talker: Talker) -> None:
        self.faults += talker.faults
        self.accepted |= talker.accepted
        talker.close()


@pytest.mark.long
@pytest.mark.timeout(300 + MOST // 10)
def test_daemon_when_a_crowd_says_anything_then_all_is_answered_and_no_turn_is_slow(
    daemon: DaemonProcess, seed: int
) -> None:
    sys.stderr.write(f"\nSTOKER_SEED={seed}: {SAID} things said\n")
    before, after = Crowd(daemon, f"{seed} before"), Crowd(daemon, f"{seed} after")

    said = before.speak(SAID, set(NAMES))
    with daemon.client() as client:
        client.call("system.drain", {"stop": True})
    assert daemon.wait() == 0
    restored = daemon.cli("restore", "--from-backup", "latest", "--yes", "--state-dir", str(daemon.state_dir))
    daemon.start()
    after.speak(SAID // 4, set())

    sys.stderr.write(f"{said} things said until each method was accepted\n")
    assert restored.returncode == 0, restored.stderr
    assert before.faults + after.faults == []
    assert set(NAMES) - before.accepted == set()
    assert daemon.events("request_failed") == []
