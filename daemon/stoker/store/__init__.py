"""The only place that says SQL.

Owns the database file: opening it, migrating it, the one connection that writes, the rows of each table.
Refuses decisions: it is told what to store and gives back what stands. Every function that touches SQLite
takes a `sqlite3.Connection` and runs in the thread of the connection that owns it.
"""
