"""Why a job ended, in the words that `run`, `wait`, `show` and `why` share.

Standard library only: the client imports it.
"""

from __future__ import annotations

# By reason. A reason that stands in brackets is a word that filters and scripts use.
SENTENCES = {
    "timeout": "stopped at its time limit (timeout)",
    "deadline": "its deadline passed",
    "ttl": "did not start within its time to live (ttl)",
    "oom": "killed because memory ran out",
    "unresponsive": "stopped: no sign of life in time, or it reported itself as hanging (WATCHDOG=trigger)",
    "orphaned": "ran or ended while no daemon was there",
    "lost": "outlived a daemon, and its end was not seen",
    "stuck": "a process may be alive that cannot be proven to belong to it",
    "poison": "too many attempts ended unseen",
    "spawn_error": "the command could not be executed",
    "user": "by a person",
    "superseded": "a newer job took its place",
    "aborted": "ended by the failure of another step (fail_fast, abort_on) or a limit of its workflow (aborted)",
    "dependency": "a job it needs can no longer end as needed",
    "not_needed": "the end that it waited for did not happen",
    "condition": "its `if` has no value",
    "output": "its output could not be read, or a file that it produces is missing",
    "damaged": "its row in the database is damaged, so it was not started",
    "restored": "a backup was restored, and it may have run since that was made",
    "reused": "its earlier end was taken over, as nothing that it depends on has changed",
    "secrets": "its secrets are not there any more, so it was not started",
    "shutdown": "stopped with the daemon",
}
HANDLER_FAILED = "its handler failed"  # an in-process job has the reason `exit`, and no exit code
# signal(7), by number from 1 on, as all common machines have it.
SIGNALS = (
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM", "TERM",
    "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO",
    "PWR", "SYS",
)  # fmt: skip
# Signals of the kernel that few people know.
MEANINGS = {24: ", CPU time limit exceeded", 25: ", file size limit exceeded"}


def signal_words(number: int) -> str:
    """`signal 9 (SIGKILL)`."""
    name = SIGNALS[number - 1] if 1 <= number <= len(SIGNALS) else f"RTMIN+{number - 34}"
    return f"signal {number} (SIG{name}{MEANINGS.get(number, '')})"


def last_line(error: str) -> str:
    """The last line of a traceback or of a log, which says most."""
    return error.rstrip().rpartition("\n")[2]
