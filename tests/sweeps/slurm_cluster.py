"""A real Slurm of several virtual nodes on this machine, for the time of the tests.

Own munge, controller and node daemons in a folder of their own, without root, systemd or cgroups. Each node has
counted GPUs, which are links to /dev/null: enough for Slurm to hand them out.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil

DAEMONS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "srun")
SEARCHED = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))
CPUS, MEMORY_MB, GPUS = 4, 8192, 4
FEATURE = "kind"  # each node is of its own kind: kind1, kind2
CONF = """
ClusterName=virtual
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
# The default life of a credential would hold back a requeued job for two minutes.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=256
SlurmdParameters=config_overrides
MpiDefault=none
SwitchType=switch/none
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=1,batch_sched_delay=0,requeue_delay=1
ReturnToService=2
SlurmdTimeout=10
SlurmctldTimeout=30
InactiveLimit=0
LaunchParameters=use_interactive_step
KillWait=8
MinJobAge={min_job_age}
MaxJobCount=20000
EnforcePartLimits=ALL
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
GresTypes=gpu
{accounting}
{nodes}
PartitionName=main Nodes=virtual[1-{count}] Default=YES MaxTime=INFINITE State=UP PriorityTier=10 GraceTime=20
PartitionName=high Nodes=virtual[1-{count}] MaxTime=INFINITE State=UP PriorityTier=100 PreemptMode=OFF
PartitionName=short Nodes=virtual[1-{count}] MaxTime=5 State=UP PriorityTier=10
"""


ACCOUNTING_DAEMONS = ("slurmdbd", "sacct", "sacctmgr", "mariadbd", "mariadb", "mariadb-install-db")
ACCOUNT = "research"
QOS = "urgent"
ACCOUNTING = """AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={port}
AccountingStoragePass={folder}/munge.socket
AccountingStorageEnforce=associations,limits"""
DATABASE_CONF = """AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={port}
SlurmUser={user}
LogFile={folder}/slurmdbd.log
PidFile={folder}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm_acct_db
"""


def missing(*, accounting: bool = False) -> list[str]:
    """The programs that a cluster needs and this machine lacks."""
    needed = (*DAEMONS, *(ACCOUNTING_DAEMONS if accounting else ()))
    return [name for name in needed if shutil.which(name, path=SEARCHED) is None]


class VirtualCluster:
    """A running Slurm. ``environment`` is what its clients need; ``with`` stops it.

    ``accounting`` adds slurmdbd and its database, an account ``ACCOUNT`` and a quality of service ``QOS`` of this user,
    and limits that are kept; the controller forgets jobs ``min_job_age`` seconds after their end.
    """

    def __init__(self, folder: Path, nodes: int = 2, *, accounting: bool = False, min_job_age: int = 86_400) -> None:
        self.folder, self.nodes, self._accounting, self._min_job_age = folder, nodes, accounting, min_job_age
        self._port, self._database_port, *self._node_ports = _free_ports(2 + nodes)
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf"), "MASTER_ADDR": "127.0.0.1"}

    def __enter__(self) -> VirtualCluster:
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _start(self) -> None:
        self._configure()
        socket_path = self.folder / "munge.socket"
        paths = {name: self.folder / f"munge.{name}" for name in ("key", "log", "pid", "seed")}
        self._spawn(
            "munged",
            "munged",
            "--foreground",
            "--force",
            f"--socket={socket_path}",
            *(f"--{name}-file={path}" for name, path in paths.items()),
        )
        wait_for(socket_path.exists, 10, "munged")
        if self._accounting:
            self._start_accounting()
        self.start_controller()
        for number in range(1, self.nodes + 1):
            self.start_node(number)
        wait_for(self.is_idle, 30, "all nodes idle")

    def _start_accounting(self) -> None:
        """A database of its own, slurmdbd in front of it, and this cluster known to both."""
        data, database_socket = self.folder / "mysql", self.folder / "mysql.socket"
        user = f"--user={getpass.getuser()}"
        words = ("--no-defaults", user, "--auth-root-authentication-method=normal", "--skip-test-db")
        self.ask("mariadb-install-db", *words, f"--datadir={data}")
        words = ("--no-defaults", user, f"--datadir={data}", f"--socket={database_socket}", "--skip-networking")
        sizes = ("--innodb-buffer-pool-size=64M", "--innodb-log-file-size=16M", "--innodb-lock-wait-timeout=900")
        self._spawn("mariadbd", "mariadbd", *words, *sizes)
        client = ("mariadb", "--no-defaults", "-S", str(database_socket), "-u", "root", "-e")
        wait_for(lambda: "1" in self.ask(*client, "select 1"), 60, "mariadbd")
        self.ask(*client, "create database slurm_acct_db")
        self._spawn("slurmdbd", "slurmdbd", "-D", MYSQL_UNIX_PORT=str(database_socket))
        wait_for(lambda: not self.ask("sacctmgr", "-n", "list", "cluster").strip(), 60, "slurmdbd")
        self.ask("sacctmgr", "-i", "add", "cluster", "virtual")
        self.ask("sacctmgr", "-i", "add", "account", ACCOUNT)
        self.ask("sacctmgr", "-i", "add", "user", getpass.getuser(), f"account={ACCOUNT}", f"defaultaccount={ACCOUNT}")
        self.ask("sacctmgr", "-i", "add", "qos", QOS)
        self.ask("sacctmgr", "-i", "modify", "user", getpass.getuser(), "set", f"qos=normal,{QOS}")

    def _configure(self) -> None:
        for name in ("state", "spool", "dev"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(GPUS):
            (self.folder / "dev" / f"nvidia{number}").symlink_to("/dev/null")
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o600)
        host = socket.gethostname().split(".")[0]
        known = {"host": host, "folder": self.folder, "user": getpass.getuser()}
        nodes = "\n".join(
            f"NodeName=virtual{number} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={CPUS}"
            f" RealMemory={MEMORY_MB} Gres=gpu:{GPUS} Feature=virtual,{FEATURE}{number} State=UNKNOWN"
            for number, port in enumerate(self._node_ports, 1)
        )
        (self.folder / "slurm.conf").write_text(
            CONF.format(
                **known,
                port=self._port,
                nodes=nodes,
                count=self.nodes,
                min_job_age=self._min_job_age,
                accounting=ACCOUNTING.format(port=self._database_port, **known) if self._accounting else "",
            )
        )
        database = self.folder / "slurmdbd.conf"
        database.write_text(DATABASE_CONF.format(port=self._database_port, **known))
        database.chmod(0o600)  # slurmdbd insists
        (self.folder / "gres.conf").write_text(
            f"NodeName=virtual[1-{self.nodes}] Name=gpu File={self.folder}/dev/nvidia[0-{GPUS - 1}]\n"
        )
        (self.folder / "cgroup.conf").write_text("CgroupAutomount=no\n")

    def start_controller(self) -> None:
        """Start the controller, the first time or after it was stopped; it remembers its jobs."""
        self._spawn("slurmctld", "slurmctld", "-D", "-i", "-f", self.environment["SLURM_CONF"])
        wait_for(lambda: "is UP" in self.ask("scontrol", "ping"), 20, "slurmctld")

    def stop_controller(self) -> None:
        """The controller is shut down, as for a restart; jobs go on."""
        daemon = self._daemons.pop("slurmctld")
        daemon.terminate()
        daemon.wait(30)

    def start_node(self, number: int) -> None:
        """Start the daemon of a node, the first time or after its death."""
        (self.folder / "spool" / f"virtual{number}").mkdir(exist_ok=True)
        self._spawn(f"slurmd {number}", "slurmd", "-D", "-f", self.environment["SLURM_CONF"], "-N", f"virtual{number}")

    def kill_node(self, number: int) -> None:
        """A node dies as one does: its daemon and all that ran on it, at once."""
        daemon = self._daemons.pop(f"slurmd {number}")
        _kill([daemon.pid, *self._steps(number)])
        daemon.wait()

    def ask(self, *words: str) -> str:
        """What a client of this cluster prints, errors included."""
        done = subprocess.run(words, env=self._env(), capture_output=True, text=True, check=False, timeout=30)
        return done.stdout + done.stderr

    def is_idle(self) -> bool:
        """Whether every node is up and free."""
        return self.ask("sinfo", "-h", "-N", "-p", "main", "-o", "%t").split() == ["idle"] * self.nodes

    def stop(self) -> None:
        """End everything that was started, jobs first."""
        if "slurmctld" in self._daemons:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.ask("scancel", "--quiet", "--full", f"--user={getpass.getuser()}")
        for number in range(1, self.nodes + 1):
            _kill(self._steps(number))
        for daemon in reversed(list(self._daemons.values())):
            daemon.terminate()
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        self._daemons.clear()

    def _steps(self, number: int) -> list[int]:
        """Processes of the step daemons of a node, which listen below its spool folder."""
        spool = f"{self.folder}/spool/virtual{number}/"
        found = psutil.net_connections("unix")
        pids = {item.pid for item in found if item.pid and str(item.laddr).startswith(spool)}
        daemon = self._daemons.get(f"slurmd {number}")
        return sorted(pids - ({daemon.pid} if daemon else set()))

    def _spawn(self, name: str, *words: str, **variables: str) -> None:
        with (self.folder / f"{words[0]}.out").open("ab") as output:
            self._daemons[name] = subprocess.Popen(
                [_which(words[0]), *words[1:]],
                env=self._env() | variables,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def _env(self) -> dict[str, str]:
        return os.environ | self.environment | {"PATH": SEARCHED}


def wait_for(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait until ``condition`` holds. Raises ``TimeoutError`` naming ``what``."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:g} s for: {what}")
        time.sleep(0.1)


def _which(name: str) -> str:
    return shutil.which(name, path=SEARCHED) or name


def _kill(pids: list[int]) -> None:
    """Kill processes and all below them; these themselves first, before they can tell how those ended."""
    family: list[psutil.Process] = []
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            below = process.children(recursive=True)
            process.kill()
            family += below
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()


def _free_ports(count: int) -> list[int]:
    """Ports that nobody listens at just now."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
