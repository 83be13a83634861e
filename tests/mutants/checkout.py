"""A copy of this checkout, uncommitted changes included, with an environment of its own, that may be sabotaged.

Owns the copy, what is installed from it, and every process that its tests leave behind: those become our children and
are ended. Refuses to touch the checkout itself. Invariants: `stokerd`, `stoker` and the launcher run from the copy; the
libraries are those of the environment that we run in, so no network is needed; bytecode never outlives its source.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import select
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Self

ROOT = Path(__file__).parents[2]
PR_SET_CHILD_SUBREAPER = 36
LOOK_S = 0.05
INTERRUPTED = 2
PATIENCE_S = 5.0
WORDS = 110  # characters of why a test failed
SEED = "4"  # one that catches: chosen once, by trying


class Verdict(NamedTuple):
    """The results of the tests, by name, and why they failed, in a few words. `complaint`: pytest came to no result."""

    passed: list[str]
    failed: dict[str, str]
    hung: list[str]
    skipped: list[str]
    seconds: float
    complaint: str | None = None


class Checkout:
    """The copy in a temporary directory that goes with it."""

    def __init__(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="mutants-"))
        self._python = self.root / ".venv" / "bin" / "python"
        self._report = self.root / ".report.xml"

    def __enter__(self) -> Self:
        try:
            self._copy()
            self._install()
        except BaseException:
            self.__exit__()
            raise
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.root, ignore_errors=True)

    def _copy(self) -> None:
        listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        for name in subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0"):
            if name and (ROOT / name).is_file():
                (self.root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, self.root / name)

    def _install(self) -> None:
        """The way of `make venv`, but for the libraries: those are there already."""
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", self.root / ".venv"], check=True)
        ours = sysconfig.get_path("purelib", vars={"base": str(self.root / ".venv")})
        # A .pth inside of a folder that a .pth names is not read: the editable install of the checkout stays out.
        (Path(ours) / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
        options = ["--quiet", "--offline", "--no-deps", "--no-build-isolation", "--editable", str(self.root)]
        subprocess.run(
            [Path(sys.executable).with_name("uv"), "pip", "install", "--python", self._python, *options],
            env=os.environ | {"VIRTUAL_ENV": str(self.root / ".venv")}, check=True,
        )  # fmt: skip
        where = subprocess.run(
            [self._python, "-c", "import stoker; print(stoker.__file__)"],
            cwd="/", capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        assert where.startswith(str(self.root)), f"what would be tested is {where}"

    @contextlib.contextmanager
    def changed(self, file: str, text: str) -> Iterator[None]:
        """Within the `with`, the content of `file` is `text`."""
        path = self.root / file
        before = path.read_text()
        try:
            _write(path, text)
            yield
        finally:
            _write(path, before)

    def test(self, tests: Sequence[str], limit_s: float, *options: str) -> Verdict:
        """Run these tests, for `limit_s` at most."""
        self._report.unlink(missing_ok=True)
        began = time.monotonic()
        command = [str(self._python), "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={self._report}"]
        with (self.root / ".output").open("wb") as output:
            pytest = subprocess.Popen(
                [*command, *options, *tests], cwd=self.root, stdout=output, stderr=output, stdin=subprocess.DEVNULL,
                env=os.environ | {"STOKER_SEED": SEED, "VIRTUAL_ENV": ""}, start_new_session=True,
            )  # fmt: skip
            try:
                status = _await(pytest, began + limit_s)
            finally:
                _end(pytest)
        seconds = time.monotonic() - began
        if status is None:
            return Verdict([], {}, ["all of them together"], [], seconds)
        if not self._report.exists() or status >= INTERRUPTED:
            output_tail = (self.root / ".output").read_text(errors="replace")[-2_000:]
            return Verdict([], {}, [], [], seconds, f"pytest ended with {status}: {output_tail}")
        return _read(self._report, seconds)


def _write(path: Path, text: str) -> None:
    """Bytecode is found stale by second and size: a sabotage may have the same of both."""
    path.write_text(text)
    Path(importlib.util.cache_from_source(str(path))).unlink(missing_ok=True)


def _read(report: Path, seconds: float) -> Verdict:
    verdict = Verdict([], {}, [], [], seconds)
    for case in ET.parse(report).iter("testcase"):
        name = case.get("name") or "?"
        bad = [one for one in case if one.tag in ("failure", "error")]
        message = " ".join(one.get("message") or "" for one in bad)
        if "from pytest-timeout" in message:
            verdict.hung.append(name)
        elif bad:
            verdict.failed[name] = " ".join(message.split())[:WORDS]
        elif case.find("skipped") is not None:
            verdict.skipped.append(name)
        else:
            verdict.passed.append(name)
    return verdict


# --- processes --------------------------------------------------------------------------------------------


def _await(pytest: subprocess.Popen[bytes], deadline: float) -> int | None:
    """Its exit status, None at the deadline. Other children that end meanwhile are reaped: we replace init here."""
    while time.monotonic() < deadline:
        with contextlib.suppress(ChildProcessError):
            pid, status = os.waitpid(-1, os.WNOHANG)
            while pid:
                if pid == pytest.pid:
                    pytest.returncode = os.waitstatus_to_exitcode(status)
                    return pytest.returncode
                pid, status = os.waitpid(-1, os.WNOHANG)
        _wait_a_moment(pytest.pid)
    return None


def _wait_a_moment(pid: int) -> None:
    pidfd = os.pidfd_open(pid)
    try:
        select.select([pidfd], [], [], LOOK_S)
    finally:
        os.close(pidfd)


def _end(pytest: subprocess.Popen[bytes]) -> None:
    """End all processes that were left behind: they are our children by now. A clean-up after a test may finish."""
    if pytest.returncode is None:
        pytest.send_signal(signal.SIGINT)
        _await(pytest, time.monotonic() + PATIENCE_S)
    deadline = time.monotonic() + PATIENCE_S
    while left := Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
        for pid in map(int, left):
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
            _wait_a_moment(pid)
            os.waitpid(pid, os.WNOHANG)
