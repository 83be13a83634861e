"""A Slurm for the tests of one process: munged, slurmctld and slurmd on free ports, in a temporary directory.

Owns these three processes. The cluster has one node, this machine, which claims to have more processors than it has:
jobs of tests mostly wait.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.facts import until

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

NO_ACCOUNTS = "AccountingStorageType=accounting_storage/none"
ACCOUNTS = """AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={accounts_port}
AccountingStoragePass={root}/munge/socket"""
ACCOUNT_SETTINGS = """
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={accounts_port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={root}/munge/socket
PidFile={root}/slurmdbd.pid
LogFile={root}/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={database_port}
StorageUser=root
StorageLoc=accounts
"""
# An empty directory will do: nothing asks for rights, and slurmdbd makes its tables.
DATABASE = (
    "--no-defaults", "--user=root", "--bind-address=127.0.0.1", "--skip-grant-tables", "--performance-schema=OFF",
    "--innodb-buffer-pool-size=16M", "--innodb-log-file-size=8M", "--innodb-flush-log-at-trx-commit=0",
)  # fmt: skip
HIDE = 'mount -t tmpfs none "$0" && exec "$@"'
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "sinfo")
ENVIRON = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin"}
ACCOUNT_PROGRAMS = ("mariadbd", "slurmdbd", "sacct", "sacctmgr")
SETTINGS = """
ClusterName=stoker
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={root}/munge/socket
CredType=cred/munge
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd.pid
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SchedulerType=sched/builtin
SchedulerParameters=sched_interval=1,sched_min_interval=10000,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
{accounting}
JobAcctGatherType=jobacct_gather/none
MinJobAge={min_job_age_s}
MaxJobCount={most_jobs}
ReturnToService=2
KillWait=5
MessageTimeout=10
SlurmctldTimeout=30
SlurmdTimeout=30
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs=64 RealMemory=4000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
PartitionName=down Nodes=ALL Default=NO State=DOWN
"""


def why_not(*, accounts: bool = False) -> str | None:
    """Why Slurm cannot be started here, with its accounts if asked; None if it can."""
    if os.geteuid() != 0:
        return "Slurm's daemons want root"
    programs = (*PROGRAMS, *ACCOUNT_PROGRAMS) if accounts else PROGRAMS
    lacking = [program for program in programs if shutil.which(program, path=ENVIRON["PATH"]) is None]
    return f"not installed: {', '.join(lacking)} (Debian: slurm-wlm, munge, mariadb-server-core)" if lacking else None


class Slurm:
    """The cluster. Commands find it by `environ`."""

    def __init__(self, *, min_job_age_s: int = 300, most_jobs: int = 10_000, accounts: bool = False) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="stoker-slurm-"))
        self.root.chmod(0o755)  # munged refuses its socket elsewhere
        for name, mode in (("state", 0o755), ("spool", 0o755), ("munge", 0o755), ("key", 0o700)):
            (self.root / name).mkdir(mode=mode)
        names = ("controller_port", "node_port", "accounts_port", "database_port")
        self._ports = {name: _free_port() for name in names}
        self._accounts = accounts
        self.settings = self.root / "slurm.conf"
        self.node = socket.gethostname().partition(".")[0]
        values = {"root": self.root, "host": self.node, **self._ports}
        limits = {"min_job_age_s": min_job_age_s, "most_jobs": most_jobs}
        accounting = ACCOUNTS.format(**values) if accounts else NO_ACCOUNTS
        self.settings.write_text(SETTINGS.format(accounting=accounting, **limits, **values))
        private = self.root / "slurmdbd.conf"  # beside slurm.conf, for its owner only
        private.touch(mode=0o600)
        private.write_text(ACCOUNT_SETTINGS.format(**values))
        key = self.root / "key" / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))
        self.environ = {"SLURM_CONF": str(self.settings)}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        try:
            munge = self.root / "munge"
            files = [f"--key-file={self.root}/key/munge.key", f"--socket={munge}/socket", f"--seed-file={munge}/seed"]
            logs = [f"--pid-file={munge}/pid", f"--log-file={munge}/log"]
            self._start("munged", "--foreground", "--force", *files, *logs)
            until((munge / "socket").exists, why="munged's socket")
            if self._accounts:
                self._start_accounts()
            self.start("slurmctld")
            self.start("slurmd")
            until(self.is_idle, why="an idle node")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for name in ("slurmd", "slurmctld", "slurmdbd", "mariadbd", "munged"):
            self.kill(name)
        shutil.rmtree(self.root, ignore_errors=True)

    def _start_accounts(self) -> None:
        """MariaDB and slurmdbd, which has to know the cluster before its controller begins."""
        (self.root / "database" / "mysql").mkdir(parents=True)
        files = [
            f"--datadir={self.root}/database",
            f"--socket={self.root}/mariadb",
            f"--pid-file={self.root}/mariadb.pid",
        ]
        self._start("mariadbd", *DATABASE, *files, f"--port={self._ports['database_port']}")
        until((self.root / "mariadb").exists, why="MariaDB's socket")
        self._start("slurmdbd", "-D")
        until(lambda: "stoker" in self.run("sacctmgr", "-i", "add", "cluster", "stoker", check=False), why="slurmdbd")

    def start(self, name: str, *, hidden: Path | None = None) -> None:
        """Start slurmctld or slurmd (again). `hidden`: a directory in whose place it and its jobs see an empty one.

        Returns when it listens: a job that finds no slurmd for ten seconds begins two minutes later.
        """
        around = [] if hidden is None else ["unshare", "--mount", "sh", "-c", HIDE, str(hidden)]
        self._start(name, "-D", "-f", str(self.settings), around=around)
        port = self._ports["controller_port" if name == "slurmctld" else "node_port"]
        until(lambda: _listens(port), why=f"{name} on its port")

    def _start(self, name: str, *arguments: str, around: Sequence[str] = ()) -> None:
        errors = (self.root / f"{name}.err").open("ab")
        with errors:
            self._processes[name] = subprocess.Popen(
                [*around, name, *arguments],
                env=ENVIRON | self.environ,
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
            )

    def kill(self, name: str, signum: int = signal.SIGKILL) -> None:
        """End one of the daemons; the jobs of a node go on."""
        process = self._processes.pop(name, None)
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signum)
            process.wait(60)

    def stop_controller(self) -> None:
        """End slurmctld, which saves its state. One that is killed may give out the number of a job again."""
        self.kill("slurmctld", signal.SIGTERM)

    def is_idle(self) -> bool:
        return "idle" in self.run("sinfo", "--noheader", "--format=%T", check=False)

    def run(self, *command: str, check: bool = True) -> str:
        done = subprocess.run(command, env=ENVIRON | self.environ, capture_output=True, text=True, check=False)
        assert done.returncode == 0 or not check, done.stderr
        return done.stdout


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
