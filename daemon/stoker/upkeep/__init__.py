"""What keeps a daemon well: recovery, drain, housekeeping, throttle, health, watchdog, safe mode.

Owns duties that no client asks for. Refuses to decide about jobs other than by messages to the engine.
"""
