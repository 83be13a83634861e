"""The `stoker` command: parse, call the daemon, render.

Owns the words people type and the text they read. The daemon makes every decision. main.py has the table of commands.
"""
