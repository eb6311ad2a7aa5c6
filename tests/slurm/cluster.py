"""A real Slurm on this machine: two nodes and accounting on loopback, below one folder.

`python -m tests.slurm.cluster install` brings the daemons with apt-get (needs root or sudo) and
says so; `start DIR` and `stop DIR` are for looking around by hand. Nothing is registered with the
system: no service, no port but free ones on 127.0.0.1, no file outside the folder.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

PACKAGES = ("slurm-wlm", "munge", "slurmdbd", "mariadb-server")
NEEDED = ("slurmctld", "slurmd", "slurmdbd", "munged", "mariadbd", "mariadb-install-db")
NODES = ("n1", "n2")
REQUEUE_S = 5
"""How long Slurm holds a requeued job back; its own default, two minutes, is long for a test."""

CONTROL = """
ClusterName=mini
SlurmctldHost=localhost(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={munge},cred_expire={requeue}
CredType=cred/munge
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool/%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd.%n.pid
SlurmctldLogFile={root}/log/slurmctld.log
SlurmdLogFile={root}/log/slurmd.%n.log
SlurmctldPort={control}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
MpiDefault=none
KillWait=3
SchedulerParameters=sched_interval=1,batch_sched_delay=0
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={accounting}
AccountingStoragePass={munge}
NodeName=n1 NodeHostname=localhost NodeAddr=127.0.0.1 Port={n1} CPUs=2 RealMemory=4000
NodeName=n2 NodeHostname=localhost NodeAddr=127.0.0.1 Port={n2} CPUs=2 RealMemory=4000
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=9
"""
ACCOUNTING = """
AuthType=auth/munge
AuthInfo=socket={munge}
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={accounting}
SlurmUser={user}
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={database}
StorageUser=slurm
StoragePass=toy
StorageLoc=slurm_acct_db
LogFile={root}/log/slurmdbd.log
PidFile={root}/slurmdbd.pid
"""
GRANTS = "create database slurm_acct_db;" + "".join(
    f"create user 'slurm'@'{host}' identified by 'toy';"
    f"grant all on slurm_acct_db.* to 'slurm'@'{host}';"
    for host in ("127.0.0.1", "localhost")
)


def lacking() -> list[str]:
    """The daemons that are not installed."""
    path = f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin"
    return [name for name in NEEDED if shutil.which(name, path=path) is None]


def install() -> None:
    """Install what is lacking, without starting any service of the system."""
    if not lacking():
        return
    if shutil.which("apt-get") is None:
        sys.exit(f"{', '.join(lacking())} are missing and there is no apt-get to install them with")
    rights = [] if os.geteuid() == 0 else ["sudo"]
    sys.stderr.write(f"apt-get install {' '.join(PACKAGES)} (about 210 MB, once)\n")
    quiet = ["env", "DEBIAN_FRONTEND=noninteractive", "RUNLEVEL=1", "apt-get", "-qq"]
    subprocess.run([*rights, *quiet, "update"], check=True)
    words = ["install", "-y", "--no-install-recommends", *PACKAGES]
    subprocess.run([*rights, *quiet, *words], check=True, stdout=subprocess.DEVNULL)


@dataclass(frozen=True)
class Cluster:
    """A running cluster; clients find it by `environment`."""

    root: Path

    @property
    def environment(self) -> dict[str, str]:
        """This process's environment with the cluster's address in it."""
        path = f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin"
        return {**os.environ, "PATH": path, "SLURM_CONF": str(self.root / "slurm.conf")}

    def ask(self, *words: str) -> str:
        """What a Slurm command prints; raises where it fails."""
        return self._run(*words).stdout.strip()

    def stop(self) -> None:
        """Cancel every job, end every daemon, and whatever else of this cluster is left."""
        subprocess.run(["scancel", "--me"], env=self.environment, capture_output=True)
        _until(lambda: not self.ask("squeue", "-h", "-t", "R,CG"), 20, patient=True)
        for names in (
            ("slurmd.n1", "slurmd.n2", "slurmctld"),
            ("slurmdbd",),
            ("mariadb", "munged"),
        ):
            for name in names:
                self._end(name)
        for pid in self.left():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        _until(lambda: not self.left(), 20, patient=True)

    def lose(self, node: str) -> None:
        """Let a node die: its daemon and everything on it at once, and the controller sees it."""
        daemon = int((self.root / f"slurmd.{node}.pid").read_text())
        tasks = _with(f"SLURMD_NODENAME={node}") & _with(f"SLURM_CONF={self.root}/slurm.conf")
        steps = {
            parent for pid in tasks for parent in _parents(pid) if _name(parent) == "slurmstepd"
        }
        for pid in (daemon, *steps, *tasks):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.ask("scontrol", "update", f"nodename={node}", "state=down", "reason=lost")

    def restore(self, node: str) -> None:
        """Start the node's daemon again and wait until it may be used."""
        self._run("slurmd", "-N", node)
        with contextlib.suppress(subprocess.CalledProcessError):  # it may have resumed by itself
            self.ask("scontrol", "update", f"nodename={node}", "state=resume")
        _until(lambda: self.ask("sinfo", "-h", "-p", "debug", "-t", "idle", "-o", "%D") == "2", 60)

    def left(self) -> set[int]:
        """Processes that were started below this cluster and still run."""
        return _with(f"SLURM_CONF={self.root}/slurm.conf") - {os.getpid()}

    def _end(self, name: str) -> None:
        try:
            pid = int((self.root / f"{name}.pid").read_text())
            os.kill(pid, signal.SIGTERM)
        except (OSError, ValueError):
            return
        _until(lambda: not Path(f"/proc/{pid}").exists(), 20, patient=True)

    def _run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            words, env=self.environment, check=True, capture_output=True, text=True
        )

    def _daemon(self, *words: str) -> None:
        """Start one that puts itself into the background."""
        self._run(*words)


def _with(variable: str) -> set[int]:
    """The processes that have a variable in their environment."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if variable.encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.add(int(folder.name))
    return found


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _parents(pid: int) -> Iterator[int]:
    while pid > 1:
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            return
        yield pid


def start(root: Path | None = None) -> Cluster:
    """Start a cluster below a new folder and wait until both nodes are idle (about 10 s)."""
    # Not below pytest's folder: sockets have short names, and munge wants a path open to all.
    root = root or Path(tempfile.mkdtemp(prefix="mini-slurm-"))
    root.chmod(0o755)
    for name in ("state", "spool", "log", "munge", "db"):
        (root / name).mkdir()
    cluster = Cluster(root)
    _configure(root)
    try:
        _munge(cluster)
        _database(cluster)
        _slurm(cluster)
    except BaseException:
        cluster.stop()
        raise
    return cluster


def _configure(root: Path) -> None:
    names = ("control", "accounting", "database", *NODES)
    user = subprocess.run(["id", "-un"], check=True, capture_output=True, text=True).stdout.strip()
    values = {**dict(zip(names, _free_ports(len(names)), strict=True)), "root": root, "user": user}
    values |= {"munge": root / "munge/munge.sock", "requeue": REQUEUE_S}
    (root / "slurm.conf").write_text(CONTROL.format(**values))
    accounts = root / "slurmdbd.conf"
    accounts.touch(0o600)
    accounts.write_text(ACCOUNTING.format(**values))
    (root / "database.port").write_text(str(values["database"]))


def _munge(cluster: Cluster) -> None:
    folder = cluster.root / "munge"
    key = folder / "key"
    key.touch(0o600)
    key.write_bytes(os.urandom(1024))
    (folder / "seed").touch(0o600)
    cluster._daemon(
        "munged", "--force", f"--key-file={key}", f"--socket={folder}/munge.sock",
        f"--pid-file={cluster.root}/munged.pid", f"--log-file={cluster.root}/log/munged.log",
        f"--seed-file={folder}/seed", "--num-threads=2",
    )  # fmt: skip


def _database(cluster: Cluster) -> None:
    root = cluster.root
    common = ["--no-defaults", f"--datadir={root}/db"]
    user = [f"--user={(root / 'slurm.conf').owner()}"]
    cluster._run(
        "mariadb-install-db", *common, *user, "--auth-root-authentication-method=normal",
        "--skip-test-db",
    )  # fmt: skip
    with (root / "log/mariadb.log").open("w") as log:
        subprocess.run(
            [
                "setsid", "--fork", "mariadbd", *common, *user, f"--socket={root}/db/my.sock",
                f"--port={(root / 'database.port').read_text()}", "--bind-address=127.0.0.1",
                "--innodb-buffer-pool-size=64M", "--innodb-lock-wait-timeout=900",
                f"--pid-file={root}/mariadb.pid",
            ],
            env=cluster.environment, stdout=log, stderr=log, check=True,
        )  # fmt: skip
    client = ["--no-defaults", "-S", f"{root}/db/my.sock", "-u", "root"]
    _until(lambda: bool(cluster.ask("mariadb-admin", *client, "ping")), 60, patient=True)
    cluster._run("mariadb", *client, "-e", GRANTS)


def _slurm(cluster: Cluster) -> None:
    cluster._daemon("slurmdbd")
    _until(lambda: bool(cluster.ask("sacctmgr", "-i", "add", "cluster", "mini")), 60, patient=True)
    cluster._daemon("slurmctld", "-c")
    for node in NODES:
        cluster._daemon("slurmd", "-N", node)
    _until(lambda: cluster.ask("sinfo", "-h", "-p", "debug", "-t", "idle", "-o", "%D") == "2", 60)


def _until(true: Callable[[], bool], seconds: float, *, patient: bool = False) -> None:
    """Wait for something; a command that fails means "not yet". Patient: give up in silence."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if true():
                return
        except (OSError, subprocess.CalledProcessError):
            pass
        time.sleep(0.3)
    if not patient:
        raise TimeoutError(f"the cluster was not ready within {seconds:.0f} s")


def _free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, all different."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def main(words: Sequence[str]) -> None:
    """install | start DIR | stop DIR."""
    if list(words) == ["install"]:
        install()
    elif len(words) == 2 and words[0] == "start":
        root = Path(words[1]).resolve()
        root.mkdir()
        start(root)
        sys.stdout.write(f"export SLURM_CONF={root}/slurm.conf\n")
    elif len(words) == 2 and words[0] == "stop":
        Cluster(Path(words[1]).resolve()).stop()
    else:
        sys.exit("usage: python -m tests.slurm.cluster install | start DIR | stop DIR")


if __name__ == "__main__":
    main(sys.argv[1:])
