"""Executors run attempts: as local subprocesses or as in-process handlers, behind one protocol.

Owns the translation between an attempt and the process or task that carries it out. Refuses states, retries and SQL.
"""
