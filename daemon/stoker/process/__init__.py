"""The daemon's side of processes: the client of launchers, proof of identity, stopping of trees, reading of logs.

Refuses to decide what becomes of a job, and to be the parent of a worker.
"""
