"""The machine around the daemon, as it is right now.

Owns reading CPU, memory, pressure and free space. Refuses judgement: core/throttle.py decides what it means.
"""
