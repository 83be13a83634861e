"""The launcher: a small stand-alone process, the parent of all workers.

Owns spawning, reaping and outcomes, so that the daemon may die and come back without losing one. One thread, standard
library only, everything imported at the start. Nothing in here may import the rest of Stoker.
"""
