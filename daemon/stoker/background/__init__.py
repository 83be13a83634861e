"""The work beside the loop of job state: background tasks and periodic duties.

Owns the reaction to their failures.
"""
