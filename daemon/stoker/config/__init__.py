"""The daemon's settings: `load` reads them, `describe` writes them, `Config` is what they are.

Owns the public face of the package; settings.py owns the keys, loading.py files and environment, mistakes.py
the words for what is wrong, describing.py the TOML text. Refuses to be changed at run time: a Config is frozen.
"""

from stoker.config.describing import describe
from stoker.config.loading import ENVIRONMENT, find, load
from stoker.config.settings import Config, QueueSection

__all__ = ["ENVIRONMENT", "Config", "QueueSection", "describe", "find", "load"]
