"""The launcher: a small stand-alone process, the parent of all workers.

Owns spawning, reaping and outcomes, so that the daemon may die and come back without losing one. Standard
library only, one thread, everything imported at start: nothing in here may import the rest of Stoker.
"""
