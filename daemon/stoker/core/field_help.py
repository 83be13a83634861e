"""One line of help for each field of a job, of a step and of a flow.

Owns the texts that JSON schemas and manual pages show. A test asks that every field has one. Durations are
milliseconds, instants UTC milliseconds since 1970, sizes bytes, unless a text says otherwise.
"""

from __future__ import annotations

from typing import Final

JOB: Final = {
    "command": "the program: an absolute path, or a name that is looked up in the PATH of `env`",
    "args": "its arguments",
    "env": "environment variables, beside those that the settings let through",
    "working_dir": "the directory to run in",
    "umask": "the file mode mask, as a number (18 is octal 022); null: that of the daemon",
    "stdin": "text for its standard input; null: an empty input",
    "name": "a name for people",
    "labels": "labels to find it by",
    "queue": "the queue (default: default)",
    "execution_mode": "subprocess, or in_process for a handler that runs inside the daemon",
    "priority": "jobs with a higher priority start first (default: 0)",
    "max_attempts": "attempts before the job has failed (default: 1)",
    "base_delay_ms": "the wait before the second attempt (default: 1000)",
    "backoff_factor": "each further wait is so many times longer (default: 2)",
    "max_delay_ms": "the longest wait between attempts (default: 3600000)",
    "success_exit_codes": "exit codes that mean success (default: 0)",
    "no_retry_exit_codes": "exit codes after which the job is not retried",
    "checkpoint_exit_code": "the exit code that means: state saved, run me again",
    "ttl_ms": "the job expires if it has not started in this time after submit, `run_at` and met needs",
    "deadline": "the instant at which the job must have ended",
    "timeout_ms": "the time limit of an attempt",
    "grace_ms": "the time between SIGTERM and SIGKILL (default: 10000)",
    "warn_signal": "the number of a signal to send before a time limit",
    "warn_before_ms": "how long before the time limit to send it",
    "notify": "the job may report status, progress and signs of life with systemd-notify",
    "heartbeat_ms": "how often the job must give a sign of life",
    "unresponsive_warn_ms": "warn after this time without a sign of life (default: 30000)",
    "unresponsive_kill_ms": "stop the job after this time without a sign of life (default: 180000)",
    "run_at": "the instant before which the job does not start",
    "needs": "jobs that must have ended first: ids, or {job, on} with on = ok, failed or any (default: ok)",
    "wait_for": "what must have happened first: a condition such as event:NAME, or a group {all} or {any} of them",
    "on_orphan": "what to do after an end that was not seen: fail, requeue or hold (default: fail)",
    "max_orphanings": "unseen ends after which a job is held instead of queued again (default: 3)",
    "survive": "the job goes on while the daemon is down",
    "resources": "the amounts of resources that the job holds while it runs",
    "rate_key": "start at the rate of this key, which is shared with all jobs that have it",
    "limits": "limits of an attempt: memory, CPU time, processes, open files, size of files",
    "nice": "-20 to 19: a higher number gives way to other processes; below 0 needs root",
    "max_log_bytes": "how much of the log is kept: its head and tail (default: 67108864)",
    "secrets": "secrets by name, each {base64}: the job reads them from files in $STOKER_SECRETS_DIR",
    "idempotency_key": "a second submit with the same key returns the same job",
    "supersede_key": "replace the older jobs with this key that have not started",
    "supersede_running": "what an older job that runs does first: finish or stop (default: finish)",
    "debounce_ms": "start only after this time without a newer job of its key",
    "debounce_max_ms": "start after this time however many newer ones came (default: ten times debounce_ms)",
    "traceparent": "the W3C trace context that the job belongs to",
}

STEP: Final = {
    **JOB,
    "secrets": "the names of the secrets that the step reads from files in $STOKER_SECRETS_DIR",
    "needs": "steps that must have ended first: names, or {step, on} with on = ok, failed or any (default: ok); with"
    ' same = "item", of another list the step of the same item; {job: 41} and {workflow: 12} are work outside',
    "when": "which ends of its needs let the step run: all_ok, any_failed, all_failed, any_ok, or always; in place of"
    " `on` in each need (default: all_ok)",
    "if": "an expression in CEL about parameters, the item and the ends of its needs: if it is false, the step is"
    " skipped",
    "critical": "whether the workflow fails if this step does (default: true; of a handler: false)",
    "resume": "what a resume does with the step if it did not complete: restart, from_checkpoint, skip or fail, or the"
    " name of a strategy of a Python module (default: from_checkpoint)",
    "workflow": "the flow that the step stands for, in place of `command`; in a file the name of another file",
    "parameters": "the parameters of `workflow`, by name",
    "verify": "run the completed step again in a resume if its command, input, directory, environment, files or the"
    " outputs of its needs have changed",
    "sources": "patterns of the files that it reads, relative to its directory, as in src/**/*.c: a reuse of the step"
    " asks that their content is the same",
    "produces": "patterns of the files that it makes: if one is missing at its end the step fails, and a reuse of the"
    " step asks that they are still the same",
    "each": "make one step of each item: texts, whole numbers or tables; {{item}} in its texts stands for the item,"
    " {{item.KEY}} for a value of a table; or {step, output}: the list is an output of that step",
    "matrix": "make one step of each combination of the values of its axes, as in {os = [...], version = [...]};"
    " `exclude` drops combinations, `include` adds values or items, both lists of tables",
    "width": "how many steps of `each` or `matrix` may run at once",
    "fail_fast": "end the other steps of `each` or `matrix` as soon as one of them fails",
    "abort_on": "exit codes that end the whole workflow: the step is not retried, other steps end, handlers run",
}

FLOW: Final = {
    "name": "the name of the workflow",
    "steps": "the steps, by their names: letters, digits and . _ -, at most 48",
    "labels": "labels of the workflow, which its steps have as well, beneath their own; {{NAME}} is replaced",
    "priority": "the priority of its steps, where neither [defaults] nor the step has one",
    "timeout_ms": "the time that the workflow may take from the first start of a step, also while it is paused",
    "deadline_ms": "the time that the workflow may take from its submit",
    "max_running": "how many of its steps may run at once",
    "concurrency": "one run at a time of all workflows of a user with this key, in which {{NAME}} is replaced; policy:"
    " queue (wait, the default), skip (store nothing) or supersede (cancel the older one)",
    "secrets": "the sources of secrets by name: a file, env:VARIABLE, or - for standard input; the client reads them",
    "on_failure": "steps that run once all others have ended, if the workflow is to fail; they need only each other",
    "on_success": "steps that run once all others have ended, if the workflow is not to fail; they need only each"
    " other",
    "finally": "steps that run at last, however the workflow ends, also after a cancel, which a second cancel ends;"
    " timeout_ms is 600000 where none is set; they need only each other",
    "parameters": "the parameters with their defaults; {{NAME}} in the texts of steps stands for the value",
    "defaults": "fields for all steps that do not set them",
    "verify": "the default of `verify` of all steps",
    "outputs": "what the flow hands on where it is a step of another one, by name; {{STEP.KEY}} stands for an output",
}

LIMITS: Final = {
    "memory_bytes": "memory",
    "cpu_seconds": "CPU time",
    "processes": "processes",
    "open_files": "open files",
    "file_size_bytes": "the size of a file that it writes",
}
