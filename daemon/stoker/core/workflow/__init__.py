"""Every decision about a single workflow, as pure functions of values: definition, state, resume, rollback, analysis.

Clocks and I/O stay outside.
"""
