"""Decisions as pure functions of values.

Everything that a decision needs is an argument, and everything that follows from it is a returned value: nothing here
awaits, reads a clock or a file, draws a random number or knows SQL.
"""
