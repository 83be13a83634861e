"""What runs beside the loop of job state: tasks that nobody awaits, and threads for calls that block.

Owns what becomes of a task that fails and of a call that hangs. Refuses to know what they do.
"""
