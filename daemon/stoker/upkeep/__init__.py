"""Duties of the daemon that no client asks for: recovery, drain, housekeeping, throttle, health, watchdog, safe mode.

Decisions about jobs are messages to the engine.
"""
