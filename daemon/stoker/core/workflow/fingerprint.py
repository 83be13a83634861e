"""The fingerprint of a completed step (`verify = true`): if it is unchanged, a resume need not run the step again.

It covers command, arguments, standard input, directory, environment (its own, and that of all workers of this daemon)
and the outputs of the steps that it needs; other files that the command reads are not covered. Invariant: equal parts
give equal hashes, also after a restart of the daemon.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from stoker.core.job.model import Spec
from stoker.core.sorted_json import encode_sorted

_CHANGES = {
    "command": "its command or arguments have changed",
    "input": "its standard input has changed",
    "directory": "its working directory has changed",
    "environment": "its environment has changed",
    "outputs": "the outputs of its needs have changed",
}


def digest(value: object) -> str:
    return hashlib.blake2b(encode_sorted(value), digest_size=16).hexdigest()


def proof(spec: Spec, surroundings: str, outputs: Mapping[str, str | None]) -> dict[str, str]:
    """A hash of each part. `surroundings`: the hash of all workers' environment; `outputs`: hashes by needed step."""
    return {
        "command": digest([spec.command, spec.args, spec.execution_mode]),
        "input": digest(spec.stdin),
        "directory": digest(spec.working_dir),
        "environment": digest([spec.env, surroundings]),
        "outputs": digest(outputs),
    }


def difference(then: Mapping[str, str] | None, now: Mapping[str, str]) -> str | None:
    """The changes in words; None if there are none."""
    if then is None:
        return "its fingerprint is missing or damaged"
    changed = [_CHANGES[part] for part in now if then.get(part) != now[part]]
    return "; ".join(changed) or None
