"""Lets `python -I -S .../launcher/__main__.py` run this directory as a package of its own.

By path, because the launcher must start where nothing is installed, and must not load the rest of Stoker.
"""

import os
import sys

if not __package__:
    # PEP 366: relative imports work once the package's name is known and its parent directory is searched.
    __package__ = os.path.basename(os.path.dirname(os.path.abspath(__file__)))
    sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    __import__(__package__)

if sys.argv[1] == "node":
    from .node import main

    os._exit(main(sys.argv[2:]))  # all is written: to take the interpreter down would cost 3 ms more

from .main import main

sys.exit(main(sys.argv[1:]))
