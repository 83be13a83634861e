"""What runs beside the loop of job state: tasks that nobody awaits, and periodic duties.

Owns what becomes of one that fails. Refuses to know what they do.
"""
