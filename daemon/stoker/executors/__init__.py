"""Those who run attempts: local subprocesses and in-process handlers, behind one protocol.

Owns the translation between an attempt and whatever carries it out. Refuses states, retries and SQL.
"""
