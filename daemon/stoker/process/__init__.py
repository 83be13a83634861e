"""The daemon's side of processes: talking to launchers, proving who a process is, stopping trees, reading logs.

Nothing here decides what becomes of a job, and nothing here is the parent of a worker.
"""
