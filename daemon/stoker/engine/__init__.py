"""The one owner of job state: it takes requests and reports in turns, commits, then acts, then announces.

Everything that changes a job goes through `core.job.lifecycle.step`. SQL is in `store`, processes are below in
`executors`, framing is above in `rpc`.
"""
