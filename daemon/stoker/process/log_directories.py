"""Removal of the log directories of purged jobs.

A worker of the daemon's user can put anything in place of its directory: names are made of numbers, and no link is
followed. Invariant: what is reported as removed stays removed after a power loss.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import groupby
from pathlib import Path

from msgspec import Struct

from stoker.files import DIRECTORY, remove_tree
from stoker.foreign import reached

IN_ONE_BUCKET = 1_000


class RemovedLogs(Struct):
    """The jobs whose directories are gone, and the last error of those that could not be removed.

    `last` is the highest id that was tried.
    """

    ids: list[int]
    error: OSError | None = None
    last: int = 0


def bucket_of(job_id: int) -> int:
    """The directory below `logs` that contains the log directory of a job."""
    return job_id // IN_ONE_BUCKET


def remove_logs(logs: Path, ids: Iterable[int], limit_s: float = 60.0) -> RemovedLogs:
    """Remove the log directories of these jobs, as many as can be removed in `limit_s`.

    A file system that discards the blocks of each file takes milliseconds for a file.
    """
    removed, end = RemovedLogs([]), time.monotonic() + limit_s
    for bucket, of_bucket in groupby(sorted(ids), bucket_of):
        if time.monotonic() < end:
            _remove_in_bucket(logs / str(bucket), list(of_bucket), removed, end)
    return removed


def remove_logs_of_all(roots: Sequence[Path], ids: Sequence[int], limit_s: float = 60.0) -> RemovedLogs:
    """As `remove_logs` in each of these directories. A job counts as done once its logs are in none of them.

    What a user does not let the daemon remove stays in that user's directory, and is no error of the daemon.
    """
    removed = remove_logs(roots[0] / "logs", ids, limit_s)
    for root in roots[1:]:
        remove_logs(root / "logs", removed.ids, limit_s)
    return removed


def _remove_in_bucket(bucket: Path, ids: list[int], removed: RemovedLogs, end: float) -> None:
    try:
        with reached(str(bucket)) as name:
            descriptor = os.open(name, DIRECTORY)
    except FileNotFoundError:
        removed.ids += ids  # none of these jobs has written anything
        removed.last = ids[-1]
        return
    except OSError as error:
        removed.error = error
        removed.last = ids[-1]
        return
    gone = []
    try:
        for job_id in ids:
            removed.last = job_id
            try:
                _remove(str(job_id), descriptor)
                gone.append(job_id)
            except OSError as error:
                removed.error = error
            if time.monotonic() >= end:
                break
        os.fsync(descriptor)
        removed.ids += gone
    except OSError as error:
        removed.error = error
    finally:
        os.close(descriptor)


def _remove(name: str, bucket: int) -> None:
    try:
        remove_tree(name, bucket)
    except FileNotFoundError:
        return
    except NotADirectoryError:  # a file, or a link
        os.unlink(name, dir_fd=bucket)


def remove_bucket(logs: Path, bucket: int) -> None:
    """Remove the directory of a thousand jobs that are all gone, with the logs that launchers wrote too late."""
    with suppress(OSError), reached(str(logs / str(bucket))) as name:
        if not Path(name).is_symlink():
            remove_logs(logs, [int(job) for job in os.listdir(name) if job.isdecimal()])  # noqa: PTH208
            Path(name).rmdir()
