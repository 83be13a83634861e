"""What a completed step was made of, as a hash: unchanged, it need not run again; changed, a person hears what it was.

Owns which parts count: command, arguments, standard input, directory, environment (its own and what every worker of
this daemon gets), and the outputs of what it needs. Refuses to look at files: what a command reads beside these is its
own business. Invariant: equal parts give equal hashes, also in another life of the daemon.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from stoker.core.job.model import Spec
from stoker.core.sorted_json import encode_sorted

_SAID = {
    "command": "its command or arguments have changed",
    "input": "its standard input has changed",
    "directory": "its working directory has changed",
    "environment": "its environment has changed",
    "outputs": "what it needs has handed on something else",
}


def digest(value: object) -> str:
    """The hash of anything that JSON can say."""
    return hashlib.blake2b(encode_sorted(value), digest_size=16).hexdigest()


def proof(spec: Spec, surroundings: str, outputs: Mapping[str, str | None]) -> dict[str, str]:
    """A hash for each part. `surroundings`: of what every worker gets; `outputs`: hashes by the needed step's name."""
    return {
        "command": digest([spec.command, spec.args, spec.execution_mode]),
        "input": digest(spec.stdin),
        "directory": digest(spec.working_dir),
        "environment": digest([spec.env, surroundings]),
        "outputs": digest(outputs),
    }


def difference(then: Mapping[str, str] | None, now: Mapping[str, str]) -> str | None:
    """What has changed since; None where nothing has."""
    if then is None:
        return "there is no sound proof of what it was made of"
    changed = [_SAID[part] for part in now if then.get(part) != now[part]]
    return "; ".join(changed) or None
