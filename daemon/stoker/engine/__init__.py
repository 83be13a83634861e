"""The one owner of job state: takes requests and reports in turns, commits, then acts, then announces.

Owns what is between the socket and the processes. Refuses SQL, framing and process details, which are below
and above. Everything that changes a job goes through `core.job.lifecycle.step`.
"""
