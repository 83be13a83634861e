"""The host: its load, its shutdown, and the daemon's threads.

Owns the measurements. core/throttle.py decides what follows from them.
"""
