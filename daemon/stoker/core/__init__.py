"""Decisions as values and functions.

Owns what a job is, which changes of state exist, when a retry is due and who may start next. Refuses
awaiting, clocks, randomness, files and SQL: everything it needs comes in as an argument, everything it
wants done goes out as a value.
"""
