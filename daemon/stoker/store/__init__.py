"""The only package with SQL.

Owns the database file: opening it, migrating it, the one connection that writes, the rows of each table. It makes no
decisions. Every function that touches SQLite takes a `sqlite3.Connection` and runs in that connection's thread.
"""
