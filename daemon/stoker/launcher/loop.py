"""The loop of a launcher, its one thread: wait, obey, reap, send.

Owns waiting (epoll, a signalfd for SIGCHLD, timers) and which daemon is connected. `launcher.py` knows what a message
means. A turn obeys for a bounded time, so that a batch of hundreds of orders does not delay the report of runs that
ended, and sends all reports in one frame.

Invariants: messages are obeyed in the order they were sent; one daemon at a time; an old connection is read to its end
before a new hello is answered; an order starts nothing once its daemon has hung up.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections import deque
from typing import TYPE_CHECKING

from . import frames, kernel
from .error_log import log_error
from .listener import DaemonPeer, accept

if TYPE_CHECKING:
    import socket

    from .frames import Message
    from .launcher import Launcher

TURN_S = 0.005
# A launcher that never got a hello holds nothing; its daemon may have died while starting it.
FIRST_HELLO_S = 60.0
# When the outcome log cannot be written: no event says that a full or failing disk has recovered.
WRITE_AGAIN_S = 1.0
# /proc could not be read, as the host lacks memory or descriptors.
REAP_AGAIN_S = 1.0
# A connection could not be accepted. The listener stays readable, so it is not watched for a while.
LISTEN_AGAIN_S = 1.0
MAX_PEERS = 16
SIGNALFD_BYTES = 128 * 32


class LauncherLoop:
    def __init__(self, launcher: Launcher, listener: socket.socket, daemon_uid: int) -> None:
        self._launcher = launcher
        self._daemon_uid = daemon_uid
        self._listener = listener
        self._deaths = kernel.open_signalfd(signal.SIGCHLD)
        self._epoll = select.epoll()
        self._epoll.register(listener, select.EPOLLIN)
        self._epoll.register(self._deaths, select.EPOLLIN)
        self._epoll.register(launcher.outputs.fileno(), select.EPOLLIN)
        self._peers: dict[int, DaemonPeer] = {}
        self._daemon: DaemonPeer | None = None
        self._inbox: deque[tuple[DaemonPeer, Message]] = deque()
        self._leave_at: float | None = time.monotonic() + FIRST_HELLO_S
        self._write_at: float | None = None
        self._reap_at: float | None = None
        self._listen_at: float | None = None

    def run(self) -> None:
        """Run until there is no daemon, no worker, and no outcome that is not on disk."""
        while not self._may_leave():
            self._wait()
            if self._reap_at is not None and time.monotonic() >= self._reap_at:
                self._reap()
            if self._listen_at is not None and time.monotonic() >= self._listen_at:
                self._resume_listening()
            self._obey()
            self._note_lack()
            self._send()
            self._resume_outputs()

    # --- waiting

    def _wait(self) -> None:
        for fd, events in self._epoll.poll(self._pause()):
            if fd == self._deaths:
                self._note_death()
                self._reap()
            elif fd == self._listener.fileno():
                self._accept()
            elif fd == self._launcher.outputs.fileno():
                self._read_outputs()
            elif (peer := self._peers.get(fd)) is not None:
                self._serve(peer, events)

    def _note_death(self) -> None:
        """Read the signal. If that fails, epoll reports it again."""
        try:
            os.read(self._deaths, SIGNALFD_BYTES)
        except OSError as error:
            log_error(f"the signal of a death cannot be read: {error}")

    def _pause(self) -> float | None:
        if self._inbox:
            return 0
        times = self._launcher.outputs.due, self._write_at, self._reap_at, self._listen_at, self._leave_at
        due = [at for at in times if at is not None]
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _may_leave(self) -> bool:
        if self._daemon is not None or self._inbox or not self._launcher.idle:
            return False
        return self._leave_at is None or time.monotonic() >= self._leave_at

    def _reap(self) -> None:
        self._reap_at = None
        self._launcher.reap()

    def _note_lack(self) -> None:
        """Set the time of the next try if reaping failed, here or as part of an order."""
        if self._launcher.lack is None:
            self._reap_at = None
        elif self._reap_at is None:
            self._reap_at = time.monotonic() + REAP_AGAIN_S
            log_error(f"children are not reaped: {self._launcher.lack}")

    # --- output of workers

    def _read_outputs(self) -> None:
        outputs = self._launcher.outputs
        outputs.read()
        if outputs.resting:
            self._epoll.modify(outputs.fileno(), 0)

    def _resume_outputs(self) -> None:
        outputs = self._launcher.outputs
        if outputs.due is not None and time.monotonic() >= outputs.due:
            rested = outputs.resting
            outputs.resume(time.monotonic())
            if rested and not outputs.resting:
                self._epoll.modify(outputs.fileno(), select.EPOLLIN)

    # --- connections

    def _accept(self) -> None:
        try:
            peer = accept(self._listener, self._daemon_uid)
        except OSError as error:
            self._pause_listening(error)
            return
        if peer is None:
            return
        if len(self._peers) >= MAX_PEERS:
            self._drop_oldest_stranger()
        if self._register(peer):
            self._peers[peer.fd] = peer
        else:
            peer.close()

    def _drop_oldest_stranger(self) -> None:
        """Close the oldest connection without a hello. A daemon sends hello at once; silent peers must not block it."""
        stranger = next((peer for peer in self._peers.values() if not peer.greeted), None)
        if stranger is not None:
            self._drop(stranger, f"no hello, and {MAX_PEERS} are open")

    def _pause_listening(self, error: OSError) -> None:
        """Stop accepting for a while: no event says when the host has descriptors and memory again."""
        log_error(f"connections wait: {error.strerror}")
        self._epoll.modify(self._listener, 0)
        self._listen_at = time.monotonic() + LISTEN_AGAIN_S

    def _resume_listening(self) -> None:
        self._listen_at = None
        self._epoll.modify(self._listener, select.EPOLLIN)

    def _register(self, peer: DaemonPeer) -> bool:
        """Watch a connection. False if the kernel cannot: the daemon tries again, and the workers go on."""
        try:
            self._epoll.register(peer.fd, select.EPOLLIN)
        except OSError as error:
            log_error(f"connection refused: {error.strerror}")
            return False
        return True

    def _serve(self, peer: DaemonPeer, events: int) -> None:
        if events & select.EPOLLOUT:
            peer.flush()
            if not peer.blocked:
                self._epoll.modify(peer.fd, select.EPOLLIN)
        if events & select.EPOLLHUP:
            peer.abandoned = True  # before its messages are read, as its orders may be long out of date
        if events & ~select.EPOLLOUT:
            self._read(peer)

    def _read(self, peer: DaemonPeer) -> None:
        try:
            self._inbox.extend((peer, message) for message in peer.read())
        except frames.BadFrameError as error:
            self._drop(peer, str(error))
        if not peer.open:
            self._forget(peer)

    def _drop(self, peer: DaemonPeer, reason: str) -> None:
        log_error(f"connection dropped: {reason}")
        peer.close()
        self._forget(peer)

    def _forget(self, peer: DaemonPeer) -> None:
        """Forget a peer. Messages that it sent before are still obeyed."""
        if self._peers.get(peer.fd) is peer:  # by now the descriptor may be that of another peer
            del self._peers[peer.fd]
        if peer is self._daemon:
            self._daemon = None

    # --- obeying

    def _obey(self) -> None:
        turn_ends = time.monotonic() + TURN_S  # first: if we are stopped from here on, the turn is over
        for peer in {peer for peer, _ in self._inbox}:
            peer.check_abandoned()
        while self._inbox and time.monotonic() < turn_ends:
            self._handle(*self._inbox.popleft())

    def _handle(self, peer: DaemonPeer, message: Message) -> None:
        try:
            if message["op"] == "hello":
                self._take_over(peer, message)
            elif peer.greeted:
                self._launcher.obey(message, late=peer.abandoned)
            else:
                self._drop(peer, "no hello")
        except Exception as error:  # noqa: BLE001  (no message may end the parent of all workers)
            self._drop(peer, f"{message.get('op')!r:.40}: {error!r}")

    def _take_over(self, peer: DaemonPeer, hello: Message) -> None:
        refusal = self._launcher.refusal(hello)
        if refusal is not None:
            peer.send(frames.pack([{"op": "refused", "why": refusal}]))
            self._drop(peer, f"refused for its {refusal}")
            return
        self._finish_others(peer)
        self._launcher.greet(hello)
        peer.greeted = True
        self._leave_at = None
        if peer.open:  # else it hung up right after its hello
            self._daemon = peer

    def _finish_others(self, peer: DaemonPeer) -> None:
        """Obey all messages of earlier daemons, in the inbox or still unread, and close their connections.

        Their launch orders are late: those runs are declined.
        """
        others = [other for other in self._peers.values() if other.greeted and other is not peer]
        messages = [item for item in self._inbox if item[0].greeted and item[0] is not peer]
        self._inbox = deque(item for item in self._inbox if not item[0].greeted or item[0] is peer)
        for other in others:
            other.abandoned = True
            with contextlib.suppress(frames.BadFrameError):
                messages += [(other, message) for message in other.read_to_end()]
            self._forget(other)
        for sender, message in messages:
            if message["op"] != "hello":
                self._handle(sender, message)

    # --- sending

    def _send(self) -> None:
        outbox = self._launcher.outbox
        if self._daemon is None:
            if not self._inbox:  # else it may contain acknowledgements that the daemon sent before it left
                self._write_outcomes()
        elif outbox:
            self._daemon.send(frames.pack(outbox))
            outbox.clear()
            if self._daemon.blocked:
                self._epoll.modify(self._daemon.fd, select.EPOLLIN | select.EPOLLOUT)

    def _write_outcomes(self) -> None:
        if self._write_at is not None and time.monotonic() < self._write_at:
            return
        self._write_at = None
        try:
            self._launcher.write_outcomes()
        except OSError as error:
            self._write_at = time.monotonic() + WRITE_AGAIN_S
            log_error(f"outcomes are not written: {error}")
