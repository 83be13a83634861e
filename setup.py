"""The one thing pyproject.toml cannot say: packages are found, and two of them have a folder of their own.

Owns the list of packages. `find` cannot rename (`migrations/` is the package `stoker.migrations`, `systemd/` is
`stoker.systemd`), and a list by hand would silently drop a new sub-package from the wheel.
"""

from setuptools import find_namespace_packages, setup

found = find_namespace_packages("daemon", include=["stoker", "stoker.*"], exclude=["*.__pycache__"])
setup(
    packages=[*found, "stoker.migrations", "stoker.systemd"],
    package_dir={"": "daemon", "stoker.migrations": "migrations", "stoker.systemd": "systemd"},
)
