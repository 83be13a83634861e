"""`stoker submit` and `stoker run`: submit a command as a job; `run` then follows it to its end.

Every submit in a shell loop pays for the imports of this module: following (follow.py) and batches (batch.py) are
loaded when they are needed.
"""

from __future__ import annotations

from stoker.cli.kit import render, values
from stoker.cli.kit.parser import JSON, RAW, Command, Option
from stoker.cli.kit.spec import SPEC, complete, given_fields, overdue, sent_size
from stoker.cli.submit_once import submit_once
from stoker.core.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from stoker.cli.kit.parser import Given
    from stoker.cli.run_interrupt import RunInterrupt
    from stoker.core.wire_types import Submitted


PATIENCE = values.duration_option(
    "--patience", "how long to try again while the daemon is full or restarting (default: 2m)"
)
BLOCK = Option("--block", None, "wait until the queue and your limits have room; with --patience, at most so long")


@Command(
    words="-- COMMAND [ARG…]",
    least=0,  # a batch has its commands in a file
    greedy=True,
    options=(
        *SPEC,
        PATIENCE,
        Option("--batch", "FILE|-", "submit one job per line, each a JSON object; options are the defaults of all"),
        BLOCK,
        Option("--atomic", None, "with --batch: store all jobs or none"),
        Option("-q --quiet", None, "with --batch: show no progress"),
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
    if given["atomic"] and given["block"]:
        raise UsageError("--atomic and --block exclude each other", hint="--block stores each job when there is room")
    if given["batch"] is not None:
        return _batch(given, fields)
    if given["atomic"]:
        raise UsageError("--atomic needs --batch")
    answer = _submit(given, fields)
    render.receipt(f"job {answer['id']}", render.json_text(answer) if given["json"] else answer["id"])
    return 0


@Command(
    words="-- COMMAND [ARG…]",
    greedy=True,
    options=(*SPEC, PATIENCE, BLOCK, RAW),
    examples=(
        "stoker run -- make test",
        "stoker run --timeout 2s -- sleep 60; echo $?      # 124: the time limit",
        "stoker run --max-attempts 3 --base-delay 5s -- ./flaky.sh",
        "stoker run -- sh -c 'exit 7'; echo $?             # 7",
    ),
)
def run(given: Given) -> int:
    """Ctrl-C cancels the job; a second Ctrl-C ends this command without waiting for the end of the job. SIGTERM,
    SIGHUP, or a reader of the output that exits (`| head`) ends only this command: the job goes on, and its id is
    printed on stderr.
    """
    from stoker.cli.run_interrupt import RunInterrupt, RunLeft  # noqa: PLC0415 - only for `run`

    try:
        with RunInterrupt(given) as interrupt:
            answer = _submit(given, given_fields(given), interrupt)
            from stoker.cli.follow import follow_run  # noqa: PLC0415 - loads while the job starts

            return follow_run(given, answer["id"], interrupt)
    except RunLeft as end:
        return end.exit_status


def _submit(given: Given, fields: dict[str, Any], interrupt: RunInterrupt | None = None) -> Submitted:
    if not given["words"]:
        raise UsageError("missing the command of the job", hint="stoker submit -- COMMAND [ARG…]")
    command_word, *arguments = given["words"]
    spec = complete({**fields, "command": command_word})
    sent_size(spec | {"args": arguments})
    answer = submit_once(given, {**spec, "args": arguments}, interrupt)
    if interrupt:
        interrupt.submit_answered(answer["id"])
    if remark := overdue(spec):
        render.note(remark)
    if answer.get("superseded"):
        render.note(f"job {answer['id']} supersedes job {', '.join(map(str, answer['superseded']))}")
    if answer.get("starts_after"):
        render.note(f"job {answer['id']} starts after job {', '.join(map(str, answer['starts_after']))} has ended")
    if answer["existing"]:
        render.note(f"job {answer['id']} was submitted before with this key ({answer['state']})")
    return answer


def _batch(given: Given, defaults: dict[str, Any]) -> int:
    if given["words"]:
        raise UsageError("--batch and a command exclude each other", hint="each line of the batch has its own command")
    from stoker.cli.batch import submit_batch  # noqa: PLC0415 - only for batches

    return submit_batch(given, defaults)
