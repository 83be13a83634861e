"""The socket of the spawner, and one child for each request.

Owns accepting and reaping. A child reads the request, answers it, and either becomes the launcher or exits: whatever
hangs in it (a directory service, a file system) ends with its alarm, and no other request waits for it.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import struct
import sys
from typing import NoReturn

from . import packets
from .accounts import account_of
from .packets import HOST, MALFORMED, STARTED, LaunchRequest, RefusedError
from .policy import check_member, check_uid, read_policy
from .user_launcher import become_launcher, drop_privileges, make_directory, open_files_of

CREDENTIALS = struct.Struct("3i")  # pid, uid, gid (unix(7))
BACKLOG = 64
REQUEST_S = 10  # for a whole request, in the child
MAX_CHILDREN = 2_048  # launchers, and requests under way
REPORTED_CHARACTERS = 200


class SpawnServer:
    """Serves the daemon of the policy until a SIGTERM; launchers go on."""

    def __init__(self, listener: socket.socket, policy_path: str, *, max_children: int = MAX_CHILDREN) -> None:
        self._listener = listener
        self._policy_path = policy_path
        self._max_children = max_children
        self._children = 0
        self._ending = False

    def run(self) -> None:
        wakes, wake_end = socket.socketpair()
        for end in (wakes, wake_end, self._listener):
            end.setblocking(False)  # noqa: FBT003
        signal.set_wakeup_fd(wake_end.fileno())
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            signal.signal(signum, self._note)
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(wakes, selectors.EVENT_READ)
            while not self._ending:
                for key, _ in selector.select():
                    if key.fileobj is wakes:
                        wakes.recv(4_096)
                    else:
                        self._accept()
                self._reap()

    def _note(self, signum: int, _frame: object) -> None:
        self._ending = self._ending or signum != signal.SIGCHLD

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                self._children -= 1

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError as error:  # the peer has gone again, or the host lacks descriptors
            if not isinstance(error, BlockingIOError):
                report(f"a connection is not accepted: {error.strerror}")
            return
        with connection:
            connection.setblocking(True)  # noqa: FBT003
            if self._children >= self._max_children:
                refuse(connection, f"{self._max_children} launchers run already, as many as one spawner starts")
                return
            try:
                child = os.fork()
            except OSError as error:
                refuse(connection, f"fork: {error.strerror}")
                return
            if child == 0:
                serve(connection, self._policy_path)
            self._children += 1


def refuse(connection: socket.socket, words: str) -> None:
    """Answer without a child, and wait for nothing: no request comes after the shutdown, and what has come is dropped.

    A request that is left unread would discard the answer at the close.
    """
    report(words)
    connection.setblocking(False)  # noqa: FBT003
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RD)
        while connection.recv(packets.REQUEST.size):
            pass
    packets.send(connection, HOST, words)


def serve(connection: socket.socket, policy_path: str) -> NoReturn:
    """The whole life of a child, up to the launcher that it becomes."""
    signal.set_wakeup_fd(-1)
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGALRM):
        signal.signal(signum, signal.SIG_DFL)
    signal.alarm(REQUEST_S)
    try:
        _launch(connection, policy_path)
    except RefusedError as error:
        packets.send(connection, error.code, error.words)
        report(error.words)
    except OSError as error:
        packets.send(connection, HOST, str(error))
        report(str(error))
    except BaseException as error:  # noqa: BLE001 - the boundary of a child: it must never go on as the server
        report(repr(error))
    finally:
        os._exit(1)


def _launch(connection: socket.socket, policy_path: str) -> None:
    """Become the launcher that is asked for, or only answer whether the user could get one."""
    request = packets.receive(connection)  # first: with it unread, the end of the connection discards the answer
    policy = read_policy(policy_path)
    peer = peer_uid(connection)
    if peer != policy.daemon_uid:
        raise RefusedError(MALFORMED, f"uid {peer} may ask for nothing here; uid {policy.daemon_uid} may")
    check_uid(policy, request.uid)
    account = account_of(request.uid)
    check_member(policy, request.uid, account.gids)
    if request.ready is None:
        packets.send(connection, STARTED, "")
        return
    directory = make_directory(policy, request.uid)
    os.setsid()
    drop_privileges(account)
    lock, errors = open_files_of(directory, request.launcher)
    facts = (account.name, account.home, account.shell, policy.directory, request.launcher)
    packets.send(connection, STARTED, "\0".join(facts), os.getpid())
    signal.alarm(0)
    report_start(request)
    become_launcher(request, request.ready, policy, lock, errors)


def peer_uid(connection: socket.socket) -> int:
    _, uid, _ = CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size))
    return int(uid)


def report_start(request: LaunchRequest) -> None:
    report(f"launcher {request.launcher} for uid {request.uid}")


def report(text: str) -> None:
    """A line of the service's log. A log that is gone must not end the service."""
    with contextlib.suppress(OSError):
        sys.stderr.write(ascii(text[:REPORTED_CHARACTERS])[1:-1] + "\n")
        sys.stderr.flush()
