"""The door: newline-delimited JSON-RPC 2.0 over a Unix stream socket, and the Python client for it.

Owns frames, validation, connections and streams. Refuses decisions: a handler parses, calls the service and
renders. The client side (wire.py, client.py) imports the standard library and core.errors only.
"""
