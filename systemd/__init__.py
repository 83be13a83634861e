"""The units that ship with Stoker: `stoker doctor` compares those that are installed with them.

Installed as the package `stoker.systemd`, so that the program knows the units of its own version.
"""
