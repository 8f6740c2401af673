"""Jobs of a sweep as jobs of SLURM, which may wait in its queue, be preempted and start again elsewhere.

A job runs to its end when the sweep that submitted it is killed. The same command then watches it again. All nodes
see the directory of the sweep.
"""

import json
import os
import shlex
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from getpass import getuser
from hashlib import blake2s
from pathlib import Path
from typing import IO, Literal, NamedTuple, final

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from latentlab.errors import UserError
from latentlab.run.files import read_text, write_text

# In the directory of a job: what SLURM runs, the number of the job, and its exit status.
SCRIPT, NUMBER, STATUS = "slurm.sh", "slurm.json", "slurm.status"
# Seconds between two looks at the queue, for one answer of SLURM, without any answer, and for a file on another node.
LOOK, ANSWER, SILENCE, DELAY = 2.0, 60.0, 900.0, 60.0
# A job starts at most this often, so that one that saves nothing does not start for ever.
STARTS = 100
# States of a job that does not run again.
ENDED = (
    *("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "BOOT_FAIL"),
    *("DEADLINE", "REVOKED"),
)
# Why a job waits: in the usual way, or for ever.
USUAL = ("None", "Priority", "Resources", "BeginTime", "Dependency", "Prolog")
HOPELESS = (
    *("PartitionConfig", "PartitionNodeLimit", "PartitionTimeLimit", "BadConstraints", "InvalidAccount"),
    *("InvalidQOS", "AccountNotAllowed", "QOSNotAllowed", "JobHeldAdmin"),
)


@dataclass(frozen=True)
class Request:
    """The keys of `hydra.launcher.slurm`: the request of each job.

    Attributes:
        partition: the partition, None for the cluster's default. The same holds for `account`, `qos`, `constraint`.
        nodes: the number of nodes.
        tasks_per_node: the tasks on each node, one for each device.
        gpus_per_node: the GPUs of a node.
        cpus_per_task: the cores of a task, and its threads.
        mem_gb: the memory on each node in GB. None: the cluster's default.
        save_seconds: the seconds before the time limit at which a job saves its state and is queued again.
        queue_hours: the longest wait in the queue. A job that waits longer fails.
        setup: lines of shell before a job, such as `module load cuda`.
        options: other options of sbatch, such as `--exclusive`.
    """

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    nodes: PositiveInt = 1
    tasks_per_node: PositiveInt = 1
    gpus_per_node: NonNegativeInt = 0
    cpus_per_task: PositiveInt = 1
    mem_gb: PositiveFloat | None = None
    save_seconds: PositiveInt = 120
    queue_hours: PositiveFloat = 168.0
    setup: list[str] = field(default_factory=list)
    options: list[str] = field(default_factory=list)

    def words(self, minutes: float | None) -> list[str]:
        """Return the options of sbatch, with a time limit in minutes."""
        known = {
            **{name: getattr(self, name) for name in ("partition", "account", "qos", "constraint", "nodes")},
            "ntasks-per-node": self.tasks_per_node,
            "gpus-per-node": self.gpus_per_node or None,
            "cpus-per-task": self.cpus_per_task,
            "mem": None if self.mem_gb is None else f"{round(1024 * self.mem_gb)}M",
            "time": None if minutes is None else max(1, round(minutes)),
            "signal": f"B:USR1@{self.save_seconds}",
        }
        return [*(f"--{name}={value}" for name, value in known.items() if value is not None), *self.options]


class State(NamedTuple):
    """A job in SLURM's queue: its state, why it waits, and its own name."""

    name: str
    reason: str
    job: str


class Queue:
    """SLURM's queue of this user, at which all jobs of a sweep look together."""

    def __init__(self) -> None:
        self.looked = self._answered = -float("inf")
        self._states: dict[int, State] = {}

    def state(self, number: int, at_once: bool = False) -> State | None:
        """Return the state of a job, None if the queue does not know it.

        Raises:
            UserError: if SLURM has given no answer for a long time.
        """
        if at_once or time.monotonic() > self.looked + LOOK:
            self._look()
        return self._states.get(number)

    def _look(self) -> None:
        self.looked = time.monotonic()
        try:
            lines = ask("squeue", "-h", "-t", "all", "-u", getuser(), "-o", "%A|%T|%r|%j").splitlines()
        except UserError as error:
            if self._answered + SILENCE <= self.looked:
                raise UserError(f"{error} (jobs go on: the same command watches them again)") from None
            return
        self._answered = self.looked
        cells = (line.split("|", 3) for line in lines if line.count("|") > 2)
        self._states = {int(number): State(*rest) for number, *rest in cells if number.isdecimal()}


@final
class Slurm:
    """Starts each job with sbatch, see `spawn.Start`.

    Args:
        request: what each job asks SLURM for.
        minutes: the time limit of a job. None: that of the partition.
        environment: the environment variables.
        say: prints a line.
    """

    begun: Literal["submitted"] = "submitted"

    def __init__(
        self,
        request: Request,
        minutes: float | None,
        environment: Mapping[str, str],
        say: Callable[[str], None],
    ) -> None:
        self.request = request
        self.minutes = minutes
        self.environment = dict(environment)
        self.say = say
        self.queue = Queue()

    def __call__(self, words: Sequence[str], log: IO[bytes], lock: int, grace: float) -> "SlurmJob":
        place = Path(log.name).parent
        (place / STATUS).unlink(missing_ok=True)
        write_text(place / SCRIPT, self.script(words, place))
        options = (f"--job-name={job_name(place)}", f"--output={log.name}", "--open-mode=append")
        submitted = ask(
            *("sbatch", "--parsable", "--requeue", "--export=ALL", *options),
            *self.request.words(self.minutes),
            str(place / SCRIPT),
            environment=self.environment,
        )
        number = int(submitted.split(";")[0])
        write_text(place / NUMBER, json.dumps({"job": number}) + "\n")
        return SlurmJob(number, place, self, grace, os.dup(lock))

    def rejoin(self, place: Path, lock: int, grace: float) -> "SlurmJob | None":
        """Return the job that an earlier command submitted, if it has not ended.

        The directory may come from somebody else, and SLURM gives numbers again: the name of the job must agree.
        """
        try:
            number = json.loads(read_text(place / NUMBER, 1000))["job"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if type(number) is not int:
            return None
        state = self.queue.state(number, at_once=True)
        if state is None or state.name in ENDED or state.job != job_name(place):
            return None
        return SlurmJob(number, place, self, grace, os.dup(lock))

    def script(self, words: Sequence[str], place: Path) -> str:
        """Return the script of a job, which runs once on its first node, each time that the job starts."""
        status = shlex.quote(str(place / STATUS))
        return "\n".join(
            [
                "#!/usr/bin/env bash",
                f"cd {shlex.quote(os.getcwd())}",
                f"rm -f {status}",
                'echo "-- SLURM job $SLURM_JOB_ID on $SLURM_JOB_NODELIST, start $((${SLURM_RESTART_COUNT:-0} + 1))"',
                'export OMP_NUM_THREADS="${SLURM_CPUS_PER_TASK:-1}"',
                *self.request.setup,
                "# A signal ends `wait` before the job has ended.",
                "ended() { wait $job; status=$?; while kill -0 $job 2>/dev/null; do wait $job; status=$?; done; }",
                f"finish() {{ echo $status > {status}; exit $status; }}",
                "# Before the time limit. A signal to srun would end its tasks at once; scancel lets them save.",
                f"requeue() {{ [ ${{SLURM_RESTART_COUNT:-0}} -lt {STARTS} ] || return; "
                "scancel --signal=TERM $SLURM_JOB_ID; ended; [ $status = 0 ] && finish; "
                "scontrol requeue $SLURM_JOB_ID; exit 0; }",
                "trap requeue USR1",
                f"srun {shlex.join(words)} &",
                "job=$!",
                "ended",
                "finish",
                "",
            ]
        )


@final
class SlurmJob:
    """A job of SLURM, as the sweep sees it (`spawn.Guarded`)."""

    def __init__(self, number: int, place: Path, slurm: Slurm, grace: float, lock: int) -> None:
        self.pid = number
        self._place = place
        self._slurm = slurm
        self._grace = grace
        self._lock = lock
        self._began = self._seen = time.monotonic()
        self._deadline = self._gone = float("inf")
        self._said = ""

    def poll(self) -> int | None:
        """Return the exit status, None while the job waits or runs."""
        state = self._slurm.queue.state(self.pid)
        if self._slurm.queue.looked < self._began:
            return None
        if state is not None and state.name not in ENDED:
            return self._go_on(state)
        return self._status(state)

    def stop(self) -> None:
        """Let the job save its state, and cancel it after its grace."""
        with suppress(UserError):  # it has ended, or is killed after its grace
            state = self._slurm.queue.state(self.pid, at_once=True)
            if state is not None and state.name == "RUNNING":
                ask("scancel", "--signal=TERM", str(self.pid))
                self._deadline = time.monotonic() + self._grace
                return
        self.kill()

    def kill(self) -> None:
        self._deadline = float("inf")
        with suppress(UserError):  # it has ended
            ask("scancel", str(self.pid))

    def close(self) -> None:
        os.close(self._lock)

    def _go_on(self, state: State) -> int | None:
        now = time.monotonic()
        if now > self._deadline:
            self.kill()
        if state.name != "PENDING":
            self._seen = now
        elif state.reason in HOPELESS:
            return self._give_up(f"can never start ({state.reason})")
        elif now > self._seen + 3600 * self._slurm.request.queue_hours:
            return self._give_up(f"waited longer than hydra.launcher.slurm.queue_hours ({state.reason})")
        elif state.reason not in (*USUAL, self._said):
            self._said = state.reason
            self._slurm.say(f"{self._place.name}: SLURM job {self.pid} waits: {state.reason}")
        return None

    def _give_up(self, why: str) -> int:
        self.kill()
        self._log(f"SLURM job {self.pid} {why}: the keys of hydra.launcher.slurm choose another request")
        return 1

    def _status(self, state: State | None) -> int | None:
        # A file that another node has written may show here a little later.
        if (self._place / STATUS).exists():
            try:
                return int(read_text(self._place / STATUS, 100))
            except (OSError, ValueError):
                return 1
        if state is not None and state.name == "COMPLETED":
            return 0
        self._gone = min(self._gone, time.monotonic())
        if time.monotonic() < self._gone + (DELAY if state is None or state.name == "FAILED" else 0):
            return None
        self._log(f"SLURM ended job {self.pid}: {state.name if state else 'it no longer knows the job'}")
        return 1

    def _log(self, line: str) -> None:
        with (self._place / "job.log").open("a") as log:
            log.write(f"error: {line}\n")


def job_name(place: Path) -> str:
    """Return the name in SLURM of the job of a directory."""
    return f"latentlab-{blake2s(str(place.absolute()).encode(), digest_size=8).hexdigest()}"


def ask(*words: str, environment: Mapping[str, str] | None = None) -> str:
    """Run a command of SLURM and return its output.

    Raises:
        UserError: if it is not installed, fails, or gives no answer within a minute.
    """
    try:
        done = subprocess.run(
            words, env=environment, capture_output=True, text=True, timeout=ANSWER, check=False
        )
    except FileNotFoundError:
        raise UserError(
            f"{words[0]} is not installed here: start the sweep on a login node of SLURM, or with hydra/launcher=jobs"
        ) from None
    except subprocess.TimeoutExpired:
        raise UserError(f"{words[0]}: SLURM's controller has not answered for {ANSWER:.0f} seconds") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise UserError(f"SLURM: {lines[-1].removeprefix(f'{words[0]}: error: ')}")
    return done.stdout.strip()
