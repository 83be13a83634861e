"""A section of the settings file, and the help and bounds of its keys.

The help of a key stands in its Meta and nowhere else, so `config/stoker.toml`, `stoker config show` and the messages
about mistakes cannot disagree.
"""

from __future__ import annotations

from msgspec import Meta, Struct

from stoker.core.units import AGE


def says(text: str) -> Meta:
    """Help for a key without bounds."""
    return Meta(description=text)


def between(least: float, most: float, text: str) -> Meta:
    """Bounds (both included) and help for a number."""
    return Meta(ge=least, le=most, description=text)


def aged(text: str) -> Meta:
    """Help for an age."""
    return Meta(pattern=AGE, title='a time such as "30d", "12h" or "forever"', description=text)


class Section(Struct, frozen=True, kw_only=True):
    """A table of the file. Its docstring's first line is the comment above it in `stoker.toml`."""
