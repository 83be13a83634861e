"""The life of one workflow, pure: its definition, states, resume, rollback, checkpoints, analysis.

Owns every decision about a workflow as values and functions. Refuses clocks and I/O.
"""
