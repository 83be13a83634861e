"""What the commands share: options, rendering, values, the connection.

Owns the only place that prints (render.py). Refuses commands: those stand one folder up.
"""
