"""`stoker submit` and `stoker run`: hand a command over; for `run`, stay with it.

Owns the hot path: what this module imports, every submit in a shell loop pays for. Refuses to follow or to read
batches itself; follow.py and batch.py are loaded when asked for.
"""

from __future__ import annotations

from stoker.cli.kit import render, values
from stoker.cli.kit.parser import JSON, RAW, Option, command
from stoker.cli.kit.spec import SPEC, complete, given_fields, overdue, sent_size
from stoker.cli.submit_once import submit_once
from stoker.core.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from stoker.cli.kit.parser import Given
    from stoker.cli.run_interrupt import RunInterrupt
    from stoker.rpc.shapes import Submitted


PATIENCE = Option(
    "--patience",
    "DURATION",
    "while the daemon is full or restarting, try again for so long (2m)",
    convert=values.duration,
    to="patience_ms",
)


@command(
    words="-- COMMAND [ARG…]",
    most=None,
    greedy=True,
    options=(
        *SPEC,
        PATIENCE,
        Option("--batch", "FILE|-", "read one JSON spec a line; options become their defaults"),
        Option("--atomic", None, "with --batch: store all or nothing"),
        JSON,
    ),
    examples=(
        "stoker submit -- sha256sum /etc/hosts",
        "stoker submit --queue bulk --max-attempts 3 --timeout 20m -- ./encode.sh film.mkv",
        'id=$(stoker submit -- make) && stoker submit --after "$id" -- make install',
        "stoker submit --env PATH --env MODE=fast --limit memory=512M -- ./train",
        "stoker submit --batch jobs.ndjson",
    ),
)
def submit(given: Given) -> int:
    fields = given_fields(given)
    if given["batch"] is not None:
        return _batch(given, fields)
    if given["atomic"]:
        raise UsageError("--atomic is for --batch")
    answer = _submit(given, fields)
    render.receipt(f"job {answer['id']}", render.json_text(answer) if given["json"] else answer["id"])
    return 0


@command(
    words="-- COMMAND [ARG…]",
    least=1,
    most=None,
    greedy=True,
    options=(*SPEC, PATIENCE, RAW),
    examples=(
        "stoker run -- make test",
        "stoker run --timeout 2s -- sleep 60; echo $?      # 124: the time limit",
        "stoker run --max-attempts 3 --base-delay 5s -- ./flaky.sh",
        "stoker run -- sh -c 'exit 7'; echo $?             # 7",
    ),
)
def run(given: Given) -> int:
    """Ctrl-C cancels the job. A second one, SIGTERM, SIGHUP, or a reader of the output that leaves (`| head`) ends
    only this command: the job goes on, and its id is told on stderr.
    """
    from stoker.cli.run_interrupt import LeftJobRunning, RunInterrupt  # noqa: PLC0415 - `submit` does not pay for it

    try:
        with RunInterrupt(given) as interrupt:
            answer = _submit(given, given_fields(given), interrupt)
            from stoker.cli.follow import attend  # noqa: PLC0415 - after the submit: the job starts while this loads

            return attend(given, answer["id"], interrupt)
    except LeftJobRunning as left:
        return left.exit_status


def _submit(given: Given, fields: dict[str, Any], interrupt: RunInterrupt | None = None) -> Submitted:
    if not given["words"]:
        raise UsageError("missing the command", hint="stoker submit -- COMMAND [ARG…]")
    command_word, *arguments = given["words"]
    spec = complete({**fields, "command": command_word})
    sent_size(spec | {"args": arguments})
    answer = submit_once(given, {**spec, "args": arguments}, interrupt)
    if interrupt:
        interrupt.stored(answer["id"])
    if remark := overdue(spec):
        render.note(remark)
    if answer["existing"]:
        render.note(f"job {answer['id']} was submitted before with this key ({answer['state']})")
    return answer


def _batch(given: Given, defaults: dict[str, Any]) -> int:
    if given["words"]:
        raise UsageError("--batch and a command exclude each other", hint="the lines of the batch name the commands")
    from stoker.cli.batch import submit_batch  # noqa: PLC0415 - one submit does not pay for it

    return submit_batch(given, defaults)
