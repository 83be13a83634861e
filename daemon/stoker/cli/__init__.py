"""The `stoker` command: parse, call, render.

Owns the words people type and the text they read. Refuses decisions (the daemon makes them) and heavy
imports (a shell loop of submits pays for each one). One table in main.py names every command.
"""
