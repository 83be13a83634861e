"""The daemon's settings: `load` reads them into a `Config`, `describe` writes one as text.

Owns the public names of the package. settings.py owns the keys, loading.py files and environment, mistakes.py the error
messages, describing.py the TOML text, reloading.py the settings that can change live. A Config is frozen: a reload
makes another.
"""

from stoker.config.describing import SettingText, describe, setting_texts
from stoker.config.loading import ENVIRONMENT, check, find, load
from stoker.config.reloading import Reloaded, compare, in_force, merge_live
from stoker.config.settings import Config, QueueSection

__all__ = [
    "ENVIRONMENT",
    "Config",
    "QueueSection",
    "Reloaded",
    "SettingText",
    "check",
    "compare",
    "describe",
    "find",
    "in_force",
    "load",
    "merge_live",
    "setting_texts",
]
