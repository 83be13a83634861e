"""The screen of `stoker top`, built on Textual (the extra `stoker[tui]`). Only cli/top.py imports it, when it opens."""
