"""The daemon's side of a cluster: the directory shared with its nodes, and the commands of its engine.

Refuses to decide what becomes of a run, and to be a scheduler of several hosts.
"""
