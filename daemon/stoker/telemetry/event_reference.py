"""The meaning of each log event, and what to do about it: for people, as docs/events.md shows it.

Owns the texts. An event of severity warning or above has something to do; a test asks for it. The daemon does not
import this module.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from stoker.telemetry.events import LogEvent as E


class Meaning(NamedTuple):
    """`remedy` is empty if there is nothing to do."""

    text: str
    remedy: str = ""


MEANINGS: Final[dict[E, Meaning]] = {
    # --- the daemon ---
    E.DAEMON_STARTING: Meaning("The daemon begins to start."),
    E.DAEMON_READY: Meaning("The daemon answers on its socket."),
    E.DAEMON_UNWELL: Meaning(
        "A check of `system.health` fails; the watchdog of systemd is not answered while it does.",
        "Read `checks` and run `stoker doctor`. If the daemon hangs, systemd starts it again; jobs go on.",
    ),
    E.DAEMON_WELL: Meaning("All checks of `system.health` pass again."),
    E.DAEMON_DRAINING: Meaning("No further job starts; the daemon stops once the running ones have ended."),
    E.DAEMON_STOPPING: Meaning("The daemon stops."),
    E.DAEMON_STOPPED: Meaning("The daemon has stopped; launchers and jobs that survive go on."),
    E.DAEMON_FAILED: Meaning(
        "The daemon could not start, or had to stop.",
        "Read `error` and `hint`. `stoker doctor` examines the state without a daemon.",
    ),
    E.SAFE_MODE_ENTERED: Meaning(
        "The recovery could not be carried out, so the daemon only answers reading requests; nothing starts.",
        "Read `reason` and stop the daemon. Run `stoker recover --dry-run` and `stoker doctor`, then start it again.",
    ),
    E.CONFIG_RELOADED: Meaning(
        "The settings were read again; `changed` are in force, `needs_restart` are not yet.",
    ),
    E.CONFIG_REFUSED: Meaning(
        "The settings file has mistakes; the old settings stay in force.",
        "Run `stoker config check`, correct the file and run `stoker config reload`.",
    ),
    E.TURN_SLOW: Meaning(
        "A turn of the engine used so much CPU time that other clients noticed.",
        "One alone is harmless. If they go on, report the fields `part`, `messages` and `steps`.",
    ),
    E.CALLBACK_SLOW: Meaning(
        "A callback of the event loop used so much CPU time that other clients noticed.",
        "A handler that computes belongs into a subprocess. Else report the field `callback`.",
    ),
    E.LOG_LINES_LOST: Meaning(
        "The reader of stderr was too slow, and `lines` lines of this log were dropped; no job is affected.",
        "Look at the reader: a stopped terminal, a full disk, or a journald that is stuck.",
    ),
    E.LIBRARY_MESSAGE: Meaning(
        "A library reported something.",
        "Read `message`. It is harmless unless other warnings come with it.",
    ),
    E.TELEMETRY_LOST: Meaning(
        "Traces or metrics could not be sent, and were dropped; no job is affected.",
        "Check `[otel] endpoint` and the collector.",
    ),
    E.BACKGROUND_RETRIED: Meaning(
        "A task of the daemon failed, and is tried again in `again_in_s` seconds.",
        "Read `error`. If it goes on, run `stoker doctor`.",
    ),
    E.BACKGROUND_FAILED: Meaning(
        "A task of the daemon failed for good. The daemon stops, so that systemd starts it again.",
        "Report `task`, `error` and `stack`.",
    ),
    E.HOST_STATE_CHANGED: Meaning("The host became idle or busy, or began or ceased to charge."),
    E.FILE_UNTOLD: Meaning(
        "The kernel cannot tell about changes of a path that a job waits for, so Stoker looks every `again_in_ms`.",
        "Read `why`. Often `fs.inotify.max_user_watches` is too small, or the path is on a network file system.",
    ),
    # --- jobs ---
    E.JOB_SUBMITTED: Meaning("A job is stored."),
    E.JOB_STARTED: Meaning("An attempt of a job begins."),
    E.JOB_SUCCEEDED: Meaning("A job has succeeded."),
    E.JOB_RETRY_SCHEDULED: Meaning("An attempt failed, and the job runs again after its delay."),
    E.JOB_RETRIED: Meaning("A person queued an ended job again."),
    E.JOB_RESTARTED: Meaning("A person lets a job run from the start."),
    E.JOB_EDITED: Meaning("A person changed a job that has not started."),
    E.JOB_REQUEUED: Meaning("A job is queued again without a used attempt: its end is no fault of its own."),
    E.JOB_RELEASED: Meaning("A held job may start."),
    E.JOB_ADOPTED: Meaning("A job of an earlier daemon still runs, and goes on under this one."),
    E.JOB_STOPPING: Meaning("A running job gets SIGTERM, and after its grace SIGKILL."),
    E.JOB_CANCELLED: Meaning("A job was cancelled."),
    E.JOB_SUPERSEDED: Meaning("A newer job with the same `supersede_key` takes the place of this one."),
    E.JOB_EXPIRED: Meaning(
        "A job did not start before its ttl or deadline.",
        "`stoker why ID` says what it waited for. Give it more time, or the queue more slots.",
    ),
    E.JOB_SKIPPED: Meaning(
        "A job does not run, because a need can no longer be met or a person skipped it.",
        "`stoker why ID` names the need. `stoker retry ID` of that job takes this one up again.",
    ),
    E.JOB_HELD: Meaning(
        "A job waits until a person decides, as it might not be safe to run it.",
        "`stoker why ID` says why. Then `stoker release ID`, `stoker skip ID` or `stoker cancel ID`.",
    ),
    E.JOB_ORPHANED: Meaning(
        "The end of an attempt was not seen, for example in a loss of power; the job was not safe to run again.",
        "Look at `stoker logs ID`, then `stoker retry ID`. `--safe` lets such jobs run again by themselves.",
    ),
    E.TASK_FAILED: Meaning(
        "A job has failed, and no attempt is left.",
        "`stoker why ID` and `stoker logs ID`; then `stoker retry ID`.",
    ),
    E.TASK_TIMEOUT: Meaning(
        "A job was stopped at its time limit or deadline.",
        "`stoker logs ID` shows how far it came. `stoker retry ID --timeout 2h` gives it more time.",
    ),
    E.WORKER_UNRESPONSIVE: Meaning(
        "A job has given no sign of life for longer than `unresponsive_warn_ms`, or was stopped for that.",
        "`stoker worker ID` shows its processes. Correct `heartbeat_ms` if the job is only slower.",
    ),
    E.WORKER_UNHEARD: Meaning(
        "A message of a worker (`systemd-notify`) could not be read.",
        "Read `error`; the job itself goes on.",
    ),
    E.WORKER_UNSTOPPABLE: Meaning(
        "Processes of a job did not end after SIGKILL; mostly they wait for a dead disk or network file system.",
        "Look at `pids` with `ps -o pid,stat,wchan`; they end once the file system answers. The job stays `stopping`.",
    ),
    E.CLUSTER_AWAY: Meaning(
        "The engine of the cluster does not answer: its queues start nothing, and nothing is concluded about runs."
        " See `error`.",
        "sinfo",
    ),
    E.CLUSTER_FULL: Meaning(
        "The engine of the cluster takes no more jobs of `queue` now, by a limit of the user or account: see `error`."
        " The jobs wait, and it is asked again.",
        "`sacctmgr show assoc` shows the limit; `max_running` of the queue keeps below it.",
    ),
    E.CLUSTER_FULL_END: Meaning("The engine of the cluster is asked again to take jobs of `queue`."),
    E.CLUSTER_BACK: Meaning("The engine of the cluster answers again."),
    E.RUN_FILES_LEFT: Meaning(
        "The files of a run on the cluster could not be removed, as the daemon has no right to: see `error`.",
        "Remove `path` as root; the next start of the daemon tries it again.",
    ),
    E.WORKER_LEAKED: Meaning(
        "Processes of a run that had ended were found and stopped.",
        "A command of the job daemonises: let it stay in the foreground, or start it as a job of its own.",
    ),
    E.HANDLER_RAISED: Meaning(
        "A handler inside the daemon raised an exception; its attempt has failed.",
        "Correct the handler; `stack` has the place.",
    ),
    # --- queues, resources, rates, schedules, hooks, workflows ---
    E.QUEUE_SET: Meaning("A queue was made or changed."),
    E.QUEUE_PAUSED: Meaning("A queue starts no further jobs."),
    E.QUEUE_RESUMED: Meaning("A queue starts jobs again."),
    E.QUEUE_THROTTLED: Meaning(
        "CPU, memory or pressure is above its threshold: queues of class low start no jobs.",
        "Nothing, if it passes. Else run less at once (`[daemon] max_running`) or change `[cpu]`, `[memory]`, `[psi]`.",
    ),
    E.QUEUE_NARROWED: Meaning("Under pressure a queue with a floor (`min_running`) runs fewer jobs."),
    E.QUEUE_WIDENED: Meaning("A queue with a floor runs as many jobs as its limit allows again."),
    E.QUEUE_UNTHROTTLED: Meaning("The pressure is gone; queues of class low start jobs again."),
    E.QUEUE_OVERFLOWED: Meaning(
        "`jobs` queued jobs of `queue` went to the queue `to` of a cluster, as this host cannot start them soon."
    ),
    E.QUEUE_STANDSTILL: Meaning(
        "All running jobs of a queue (without `queue`: of the daemon) wait for jobs that are queued behind them.",
        "`why` names them. Raise `max_running` of the queue or of `[daemon]`, or cancel one of the jobs that wait.",
    ),
    E.EVENT_EMITTED: Meaning("A named event was emitted."),
    E.RESOURCE_SET: Meaning("The capacity of a resource was set."),
    E.RATE_SET: Meaning("The rate of a key was set."),
    E.RATE_REMOVED: Meaning("The rate of a key was removed."),
    E.SCHEDULE_SET: Meaning("A schedule was made or changed."),
    E.SCHEDULE_REMOVED: Meaning("A schedule was removed."),
    E.SCHEDULE_PAUSED: Meaning("A schedule submits no further runs."),
    E.SCHEDULE_RESUMED: Meaning("A schedule submits runs again."),
    E.SCHEDULE_RUN: Meaning("A person asked for a run of a schedule now."),
    E.SCHEDULE_MISSED: Meaning(
        "Slots of a schedule passed while no daemon ran, and are not made up for (`misfire`).",
        '`stoker schedule run NAME` submits a run now. `misfire = "latest"` makes up for the last one.',
    ),
    E.SCHEDULE_SKIPPED: Meaning(
        "A slot of a schedule has no run, because the last run has not ended (`overlap`).",
        'Let the schedule run less often, or choose `overlap = "queue"` or `"allow"`.',
    ),
    E.SCHEDULE_REFUSED: Meaning(
        "The job or workflow of a slot was refused; the slot has no run.",
        "Read `error` and correct the schedule: `stoker schedule show NAME`.",
    ),
    E.HOOK_REFUSED: Meaning(
        "The job of a hook was refused, so a change had no hook.",
        "Read `error`. Mostly the queue `hooks` is full: `stoker ls --queue hooks`.",
    ),
    E.HOOK_UNUSABLE: Meaning(
        "The program of a hook cannot be executed.",
        "Correct `[hooks.NAME] command` or make the file executable; `stoker hook test NAME` tries it.",
    ),
    E.HOOK_UNMATCHED: Meaning(
        "The queue or workflow that a hook names does not exist yet.",
        "Correct the name, if it is misspelt; else it may still come.",
    ),
    E.RESOURCE_EXHAUSTED: Meaning(
        "A job ran out of memory, or waits for more of a resource than there is.",
        "`stoker why ID`; raise `limits.memory_bytes` or `stoker resource set NAME=N`.",
    ),
    E.DEPENDENCY_CYCLE_DETECTED: Meaning(
        "A workflow was refused, because its steps need each other in a circle.",
        "Take out one of the needs in `cycle`.",
    ),
    E.WORKFLOW_EXPANDED: Meaning(
        "A step handed on a list; the group `step` got `added` new steps, and `skipped` are not in the list any more. "
        "`reused`: how many of these and of the steps behind them took over an end of the earlier run (`--reuse`)."
    ),
    E.WORKFLOW_ROLLED_BACK: Meaning(
        "A workflow was set back to a checkpoint.",
        "Nothing; it is a warning, because work of completed steps was undone.",
    ),
    E.ARCHIVE_FAILED: Meaning(
        "The archive of a failed workflow could not be written; the workflow itself is stored.",
        "Make room on the disk, or correct the rights of `path`; it is tried again at the next start.",
    ),
    E.WORKFLOW_FAILED: Meaning(
        "A workflow has failed.",
        "`stoker workflow show ID` names the step; then `stoker workflow retry ID`.",
    ),
    E.CHECKPOINT_DAMAGED: Meaning(
        "A checkpoint does not have its checksum any more; the one before it is used.",
        "Check the disk; `stoker doctor` names all that is damaged.",
    ),
    E.CHECKPOINT_FAILED: Meaning(
        "A checkpoint could not be stored or read.",
        "Read `error`; mostly the disk is full.",
    ),
    E.CHECKPOINT_STALE: Meaning(
        "A running job has saved no checkpoint for longer than `[workflows] stale_ms`.",
        "`stoker logs ID` and `stoker worker ID` show whether it still works.",
    ),
    # --- launchers and recovery ---
    E.LAUNCHER_STARTED: Meaning("A launcher, which starts workers, is there."),
    E.LAUNCHER_BACK: Meaning("A launcher answers again, or was found at the start."),
    E.LAUNCHER_STUCK: Meaning(
        "A launcher does not answer, mostly because of a dead disk or network file system. Its jobs count as running,"
        " and another launcher takes new ones.",
        "`stoker status` has its pid, `ps -o pid,stat,wchan PID` shows where it hangs. Nothing is lost: let it live.",
    ),
    E.LAUNCHER_LEFT: Meaning("A launcher without jobs has ended."),
    E.LAUNCHER_LOST: Meaning(
        "A launcher is dead. Its jobs are judged by what can be proven about their processes.",
        "If no person killed it, look for the OOM killer in the log of the kernel.",
    ),
    E.RECOVERY_PLANNED: Meaning("The daemon has decided what to do with the unfinished attempts of an earlier one."),
    E.RECOVERY_FINISHED: Meaning("The recovery is carried out; jobs start."),
    E.RECOVERY_FAILED: Meaning(
        "The recovery could not be carried out; the daemon stays up in safe mode.",
        "Stop the daemon. Run `stoker recover --dry-run` and `stoker doctor`, then start it again.",
    ),
    # --- the host and clients ---
    E.SOCKET_LOST: Meaning(
        "The socket file was removed or replaced, and could not be made again, or its path cannot be followed.",
        "Correct the rights of its directory; the daemon tries again.",
    ),
    E.SOCKET_RESTORED: Meaning(
        "The socket file was removed, replaced or out of reach, and is there again.",
        "Find out what removes it, for example a cleaner of /tmp.",
    ),
    E.SOCKET_OUT_OF_REACH: Meaning(
        "`[access]` lets other users in, and the mode of the socket or of a directory above it keeps them out.",
        "Read `error`: chmod or chgrp that place; of a socket of systemd in its unit (SocketMode, SocketGroup).",
    ),
    E.STATE_NOT_NOTED: Meaning(
        "`state.json`, which other tools read, could not be written; the database is not affected.",
        "Make room on the disk, or correct the rights of the state directory.",
    ),
    E.STATE_RESTORED: Meaning(
        "The database is one that was restored; jobs that may have run since the backup are held.",
        "`stoker ls --state held` lists them; decide on each.",
    ),
    E.STATE_LOST: Meaning(
        "The state directory was removed or replaced under the daemon, which accepts nothing new.",
        "Put it back. If it is gone: stop the daemon, then `stoker restore --from-backup latest`.",
    ),
    E.STATE_BACK: Meaning(
        "The state directory is in its place again.",
        "Run `stoker doctor` once.",
    ),
    E.RETENTION_PURGED: Meaning("Jobs and workflows that ended long ago were removed."),
    E.RETENTION_WAITS: Meaning(
        "The clock was set ahead by days; these days do not count for the age of ended jobs.",
        "Nothing. `stoker purge` goes by the clock as it is, if the disk needs room.",
    ),
    E.RETENTION_FAILED: Meaning(
        "Logs of removed jobs could not be deleted; it is tried again.",
        "Correct the rights of `path`.",
    ),
    E.BACKUP_MADE: Meaning("A verified backup of the database is stored."),
    E.BACKUP_FAILED: Meaning(
        "A backup could not be made, or was not sound.",
        "Read `error` and `hint`; `stoker backup` tries again, `stoker doctor` examines the database.",
    ),
    E.JOURNAL_BEGUN: Meaning("A journal begins with all rows of the database."),
    E.JOURNAL_DAMAGED: Meaning(
        "The journal was damaged or cut. A new chain begins with all rows of the database.",
        "Check the disk. `stoker audit verify` shows which file; backups are not affected.",
    ),
    E.JOURNAL_FAILED: Meaning(
        "The journal cannot be written; jobs go on, and it is caught up later.",
        "Make room on the disk, or correct the rights of `path`.",
    ),
    E.JOURNAL_GIVEN_UP: Meaning(
        "So many rows waited for the journal that a new chain will begin, once it can be written.",
        "Correct what `journal_failed` names. Until then only backups can replace a lost database.",
    ),
    E.JOURNAL_BACK: Meaning("The journal has all rows again."),
    E.HOST_SHORTAGE: Meaning(
        "A start failed because the host had no memory, process, open file or room on the disk left. The job is queued"
        " again and uses up no attempt; the next start waits.",
        "Read `error`: raise the limit of the service (`LimitNOFILE`, `TasksMax`), or run less at once.",
    ),
    E.HOST_SHORTAGE_OVER: Meaning("Jobs start again."),
    E.DISK_FULL: Meaning(
        "Less than `[disk] min_free_bytes` are free; new jobs are refused, running ones go on.",
        "`stoker status` shows what takes the room; `stoker purge --before 7d --dry-run` what could go.",
    ),
    E.DISK_OK: Meaning("There is room on the disk again."),
    E.STORAGE_FAILED: Meaning(
        "The database could not be written, so the daemon stops: it answers nothing that is not stored.",
        "Look at the log of the kernel for errors of the disk; then `stoker doctor`.",
    ),
    E.CLIENT_REFUSED: Meaning(
        "A connection was closed: too many are open, a frame was too large or too slow, the client did not read its"
        " answers, or the user may not connect.",
        "Read `error` and `uid`; `[rpc]` has the limits.",
    ),
    E.ACCESS_DENIED: Meaning(
        "A user asked for something that is not theirs: a method beyond their role, or a job, workflow or checkpoint"
        " that does not exist or belongs to another user. A user has at most one line a second; `denied` counts all.",
        "Read `uid` and `method`. If the user should have the right, `[access]` names the groups (docs/access.md).",
    ),
    E.REQUEST_FAILED: Meaning(
        "A request failed because of a bug; the client got an error, and nothing else is affected.",
        "Report `method`, `error` and `stack`.",
    ),
}
