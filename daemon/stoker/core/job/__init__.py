"""Every decision about a single job, as pure functions of values: states, admission, retries, verdicts, recovery.

Workflows, clocks and I/O stay outside.
"""
