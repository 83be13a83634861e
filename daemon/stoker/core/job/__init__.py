"""The life of one job, pure: its model, its table of states, admission, retries, limits.

Owns every decision about a job as values and functions. Refuses workflows, clocks and I/O.
"""
