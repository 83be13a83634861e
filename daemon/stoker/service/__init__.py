"""The methods of the protocol as plain calls, the assembly of all parts, and the views that clients see.

Owns the wiring and the read side. Framing is in `rpc`, decisions are in `engine` and `core`.
"""
