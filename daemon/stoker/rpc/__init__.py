"""The protocol: newline-delimited JSON-RPC 2.0 over a Unix stream socket, its server and its Python client.

Owns frames, validation, connections and streams. A handler parses, calls the service and renders; it decides nothing.
The client side (wire.py, conversation.py, client.py) imports the standard library and core.errors only.
"""
