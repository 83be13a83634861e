"""What pyproject.toml cannot say: packages are found, two have a folder of their own, and manual pages are installed.

Owns the list of packages and of manual pages. `find` cannot rename (`migrations/` is the package `stoker.migrations`,
`systemd/` is `stoker.systemd`), and a list by hand would silently drop a new sub-package from the wheel.
"""

from pathlib import Path

from setuptools import find_namespace_packages, setup

found = find_namespace_packages("daemon", include=["stoker", "stoker.*"], exclude=["*.__pycache__"])
setup(
    packages=[*found, "stoker.migrations", "stoker.systemd"],
    data_files=[(f"share/man/man{page.suffix[1:]}", [str(page)]) for page in sorted(Path("man").iterdir())],
    package_dir={"": "daemon", "stoker.migrations": "migrations", "stoker.systemd": "systemd"},
)
