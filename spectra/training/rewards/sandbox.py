"""Check answers in separate processes, so that no answer can block training or exhaust its memory.

sympy evaluates huge numbers in C, where neither a signal nor a thread can stop it. A checking process has limits
that the kernel enforces: processor seconds per answer, and bytes of memory. It checks one answer after another. When
an answer breaks a limit the process dies, the answer counts as wrong, and a fork of the warmed-up parent checks the
next one. This works in any thread.

The limit that decides is processor time, which does not depend on the load of the machine. The wall-clock limit is only
for a check that waits without computing: such a check is repeated once. Why this is not a library's pool:
``docs/adr/0004-answer-sandbox.md``.
"""

import atexit
import json
import math
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import IO, Any, TypeVar

from spectra.errors import MissingDependencyError, SpectraError

PROCESSOR_SECONDS = 1.5
CLOCK_SECONDS = 30.0
MEMORY_BYTES = 1024**3  # beyond what the imports take
# The memory of a process grows with the caches of its parser, so it is replaced after this many answers.
ANSWERS = 5000
MOST_PROCESSES = 8
# Answers for which starting one more process pays off.
WORTH_A_PROCESS = 64
_START_SECONDS = 120.0
# The kernel's limits apply first; this one is for a machine that hangs.
_LOST_SECONDS = 120.0
# Replies that decide an answer; any other reply, or none, does not.
_TRUTHS = {"right": True, "wrong": False, "limit": False}

_COMMAND = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from spectra.training.rewards import sandbox_worker as worker; worker.main()"
)

Question = Mapping[str, Any]
Item = TypeVar("Item")


def check(kind: str, question: Question) -> bool:
    """Check one answer.

    Parameters
    ----------
    kind
        Kind of check: a key of ``spectra.training.rewards.sandbox_worker.CHECKS``.
    question
        Its keyword arguments, of plain JSON values.

    Returns
    -------
    bool
        Whether the answer is right; False if it breaks a limit.

    Raises
    ------
    MissingDependencyError
        If the package that checks is not installed.
    SpectraError
        If no checking process can be started.
    """
    return _sandbox().check(kind, question)


def parallel_map(function: Callable[[Item], bool], items: Sequence[Item]) -> list[bool]:
    """Return ``function`` of each item, from several threads where the items keep several processes busy."""
    at_once = min(_most_processes(), math.ceil(len(items) / WORTH_A_PROCESS))
    if at_once <= 1:
        return [function(item) for item in items]
    with ThreadPoolExecutor(at_once) as threads:
        return list(threads.map(function, items))


class _Process:
    """One checking process, which serves one thread at a time."""

    def __init__(self, kind: str) -> None:
        with tempfile.TemporaryFile("w+") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _COMMAND, json.dumps([str(path) for path in sys.path]), kind],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,  # Ctrl-C goes to the trainer, which then ends this process
            )
            if self._read(_START_SECONDS) != "ready":
                self.end()
                errors.seek(0)
                last = errors.read().strip().rpartition("\n")[2] or "no answer"
                hint = "check that `python -c 'import math_verify'` works"
                raise SpectraError(f"the process that checks answers did not start ({last})", hint=hint)

    def check(self, question: Question) -> bool | None:
        """Return whether the answer is right, or None if it waited longer than the limit or the process is lost."""
        try:
            _pipe(self._process.stdin).write(json.dumps(question).encode() + b"\n")
            _pipe(self._process.stdin).flush()
        except OSError:
            return None
        return _TRUTHS.get(self._read(_LOST_SECONDS) or "")

    def end(self) -> None:
        """Kill the process and its copies."""
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            try:
                _pipe(pipe).close()
            except OSError:  # unsent bytes of a process that died
                pass

    def _read(self, seconds: float) -> str | None:
        reply = _pipe(self._process.stdout)
        readable, _, _ = select.select([reply], [], [], seconds)
        # One reply per question: the buffer cannot hold part of the next one.
        line = reply.readline() if readable else b""
        return line.decode().strip() or None


class _Pool:
    """Checking processes of one kind, started when they are needed."""

    def __init__(self, kind: str, limit: int) -> None:
        self._kind = kind
        self._free = threading.BoundedSemaphore(limit)
        self._lock = threading.Lock()
        self._idle: list[_Process] = []
        self._all: list[_Process] = []

    def check(self, question: Question) -> bool:
        """Return whether the answer is right; an undecided one is repeated once, in a new process, and then wrong."""
        with self._free:
            truth = self._ask(question)
            return bool(self._ask(question) if truth is None else truth)

    def end(self) -> None:
        """Kill all processes."""
        with self._lock:
            self._idle.clear()
            ended, self._all = self._all, []
        for process in ended:
            process.end()

    def _ask(self, question: Question) -> bool | None:
        process = self._take()
        truth = process.check(question)
        with self._lock:
            (self._all.remove if truth is None else self._idle.append)(process)
        if truth is None:
            process.end()
        return truth

    def _take(self) -> _Process:
        with self._lock:
            if self._idle:
                return self._idle.pop()
        process = _Process(self._kind)
        with self._lock:
            self._all.append(process)
        return process


# The package that each kind of check imports, and what installs it.
_PACKAGES = {
    "maths": ("math_verify", "the verifiable reward needs math-verify", "pip install 'spectra-rlvr[train]'"),
    "reasoning_gym": ("reasoning_gym", "these problems need reasoning-gym", "pip install 'spectra-rlvr[tasks]'"),
}


class Sandbox:
    """Checking processes that belong to one process of spectra.

    Parameters
    ----------
    most
        Maximum number of processes of each kind; None takes this process's share of the cores.
    """

    def __init__(self, most: int | None = None) -> None:
        self.owner = os.getpid()
        self._most = _most_processes() if most is None else most
        self._lock = threading.Lock()
        self._pools: dict[str, _Pool] = {}

    def check(self, kind: str, question: Question) -> bool:
        """Check one answer, see :func:`check`."""
        return self._pool(kind).check(question)

    def end(self) -> None:
        """Kill the processes; does nothing in a forked child, which runs its parent's exit functions."""
        if self.owner == os.getpid():
            for pool in self._pools.values():
                pool.end()

    def _pool(self, kind: str) -> _Pool:
        with self._lock:
            if kind not in self._pools:
                package, what, hint = _PACKAGES[kind]
                if find_spec(package) is None:
                    raise MissingDependencyError(what, hint=hint)
                self._pools[kind] = _Pool(kind, self._most)
            return self._pools[kind]


_LOCK = threading.Lock()
_OWN: list[Sandbox] = []


def _sandbox() -> Sandbox:
    """Return the sandbox of this process: a forked child must not use its parent's pipes."""
    with _LOCK:
        if not _OWN or _OWN[-1].owner != os.getpid():
            _OWN[:] = [Sandbox()]
            atexit.register(_OWN[0].end)
        return _OWN[0]


def _most_processes() -> int:
    """Return this process's share of the cores: several processes may train on this machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    local_processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(MOST_PROCESSES, cores // local_processes))


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    if pipe is None:
        raise AssertionError("the process was started with pipes")
    return pipe
