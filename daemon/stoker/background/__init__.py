"""What runs beside the loop of job state: tasks that nobody awaits, and periodic duties.

Owns what becomes of one that fails. The parts that start them know what they do.
"""
