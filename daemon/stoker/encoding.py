"""Names of files are UTF-8 text in the protocol, whatever the locale of a program is.

In another locale Python could not name such a file, or name another one. The encoding is chosen at the start of a
process only, so the process begins anew: with the same pid, descriptors and arguments. Standard library only.
"""

from __future__ import annotations

import os
import sys


def use_utf8() -> None:
    """Begin this program anew in Python's UTF-8 mode, unless names of files are read as UTF-8 already."""
    if sys.getfilesystemencoding() != "utf-8":
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])  # noqa: S606 - the same program
