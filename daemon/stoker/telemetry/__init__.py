"""What the daemon tells of itself: logs for people and journald, traces and metrics for collectors.

Owns every name that leaves the process this way. Refuses to influence anything: no code asks telemetry.
"""
