"""Executors run attempts: as local subprocesses or as in-process handlers, behind one protocol.

Owns the translation between an attempt and the process or task that carries it out. States and retries are decided in
`core`.
"""
