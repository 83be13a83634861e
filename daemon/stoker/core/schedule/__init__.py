"""Every decision about a schedule, as pure functions of values: its times, its slots, what is done with each.

Clocks and I/O stay outside.
"""
