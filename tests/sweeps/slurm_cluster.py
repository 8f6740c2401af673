"""A SLURM cluster of three nodes on this machine, from Debian's packages `slurm-wlm` and `munge`."""

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol")
NODES = ("n1", "n2", "n3")
CONF = """
ClusterName=latentlab
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
AuthType=auth/munge
# A job that is queued again starts after 5 seconds, not after 2 minutes.
AuthInfo=cred_expire=5,socket={home}/munge.socket
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={home}/state
SlurmdSpoolDir={home}/spool-%n
SlurmctldPidFile={home}/slurmctld.pid
SlurmdPidFile={home}/%n.pid
SlurmctldLogFile={home}/slurmctld.log
SlurmdLogFile={home}/%n.log
SlurmdTimeout=10
KillWait=10
OverTimeLimit=0
ReturnToService=2
SchedulerParameters=sched_interval=1,bf_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
{nodes}
PartitionName=main Nodes=n1,n2,n3 Default=YES MaxTime=60 PriorityTier=1
PartitionName=urgent Nodes=n1,n2,n3 MaxTime=60 PriorityTier=10 PreemptMode=OFF
"""


def missing() -> list[str]:
    """Return the programs that are not installed."""
    where = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    return [name for name in NEEDED if shutil.which(name, path=where) is None]


class Cluster:
    """A running cluster, whose files are in a folder that the test removes.

    Args:
        home: the folder.
        port: the first of four free ports on the loopback address.
    """

    def __init__(self, home: Path, port: int) -> None:
        self.home = home
        self.env = {
            **os.environ,
            "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin",
            "SLURM_CONF": str(home / "slurm.conf"),
        }
        for name in ("state", *(f"spool-{node}" for node in NODES)):
            (home / name).mkdir(parents=True)
        home.chmod(0o755)  # munge refuses a folder that others may write to
        host = socket.gethostname().split(".")[0]
        nodes = "\n".join(
            f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port + number} CPUs=2 RealMemory=1000"
            for number, name in enumerate(NODES, start=1)
        )
        user = os.environ.get("USER", "root")
        (home / "slurm.conf").write_text(CONF.format(host=host, port=port, home=home, user=user, nodes=nodes))
        (home / "munge.key").write_bytes(os.urandom(128))
        (home / "munge.key").chmod(0o600)

    def start(self) -> None:
        """Start all daemons, and wait until the nodes are idle."""
        places = {"key-file": "munge.key", "pid-file": "munge.pid", "log-file": "munge.log"}
        places |= {"seed-file": "munge.seed", "socket": "munge.socket"}
        self.run("munged", "--force", *(f"--{key}={self.home / name}" for key, name in places.items()))
        self.run("slurmctld")
        for node in NODES:
            self.run("slurmd", "-N", node)
        self.wait(lambda: self.run("sinfo", "-h", "-p", "main", "-t", "idle", "-o", "%D").strip() == "3", 60)

    def stop(self) -> None:
        """Cancel all jobs and end all daemons."""
        with suppress(subprocess.CalledProcessError):
            for number in self.run("squeue", "-h", "-o", "%A").split():
                self.run("scancel", number)
        for name in (*NODES, "slurmctld", "munge"):
            _kill(self.home / f"{name}.pid", signal.SIGTERM)

    def run(self, *words: str) -> str:
        """Run a command of SLURM and return its output."""
        done = subprocess.run(
            words, env=self.env, check=True, capture_output=True, text=True, timeout=60, cwd=self.home
        )
        return done.stdout

    def wait(self, until, seconds: float) -> None:
        """Wait until a condition holds."""
        deadline = time.monotonic() + seconds
        while not until():
            assert time.monotonic() < deadline, self.run("squeue")
            time.sleep(0.2)

    def jobs(self, *options: str) -> list[str]:
        """Return the numbers of jobs."""
        return self.run("squeue", "-h", "-o", "%A", *options).split()

    def kill_node(self, node: str) -> None:
        """Kill a node with all that runs there."""
        here = self.jobs("-w", node, "-t", "R")
        _kill(self.home / f"{node}.pid", signal.SIGKILL)
        for pid in _processes(f"SLURMD_NODENAME={node}"):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for number in here:
            subprocess.run(["pkill", "-9", "-f", rf"slurmstepd: \[{number}\."], check=False)


def _kill(pid_file: Path, signum: int) -> None:
    with suppress(FileNotFoundError, ValueError, ProcessLookupError):
        os.kill(int(pid_file.read_text()), signum)


def _processes(variable: str) -> Sequence[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if re.search(rf"(^|\0){variable}\0", path.read_text(errors="replace")):
                found.append(int(path.parent.name))
    return found
