"""The words for what each limit of a user counts, by its key in the settings file.

Owns the table COUNTED, which refusals and `stoker limits` share. It imports nothing: the command pays for each import.
"""

COUNTED = {
    "max_queued": "jobs that are waiting, queued or held",
    "max_running": "running jobs",
    "max_workflows": "workflows that have not ended",
    "max_schedules": "schedules",
    "max_stored_bytes": "bytes of specs, checkpoints and outputs",
    "max_log_bytes": "bytes of logs",
    "max_submits_per_s": "jobs submitted in a second",
    "max_connections_per_uid": "open connections",
}
