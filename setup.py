"""The one thing pyproject.toml cannot say: packages are found, and one of them has a folder of its own.

Owns the list of packages. `find` cannot rename (`migrations/` is the package `stoker.migrations`), and a list by hand
would silently drop a new sub-package from the wheel.
"""

from setuptools import find_namespace_packages, setup

found = find_namespace_packages("daemon", include=["stoker", "stoker.*"], exclude=["*.__pycache__"])
setup(
    packages=[*found, "stoker.migrations"],
    package_dir={"": "daemon", "stoker.migrations": "migrations"},
)
