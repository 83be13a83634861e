"""The methods of the protocol as plain calls, the assembly of all parts, and the views that clients see.

Owns the wiring and the read side. Refuses framing, which is rpc's, and decisions, which are the engine's.
"""
