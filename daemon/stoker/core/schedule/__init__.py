"""Every decision about a schedule, as pure functions of values: its times, its slots, and which slots get a run.

The caller reads the clock.
"""
