"""Process that checks answers for ``spectra.training.rewards.sandbox``: one JSON line in, one word out.

The started process imports everything once, and forks a copy that checks the answers under limits. When a limit kills
the copy, the answer counts as wrong and a new copy takes over within a few milliseconds.
"""

import json
import os
import resource
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

from spectra.training.rewards import math_equality, sandbox

# Exit statuses of a copy: input has ended; it has checked ANSWERS answers. Any other status is a broken limit.
_ENDED, _ENOUGH = 3, 4


def maths(gold: str, content: str) -> bool:
    """Compare two box contents as mathematics."""
    return math_equality.equal(gold, content)


def reasoning_gym(generator: str, options: str, entry: Mapping[str, Any], content: str) -> bool:
    """Return whether a reasoning-gym generator gives an answer the full score."""
    return float(_generator(generator, options).score_answer(content, entry)) >= 1.0


@lru_cache(maxsize=16)
def _generator(name: str, options: str) -> Any:
    return import_module("reasoning_gym").create_dataset(name, size=1, seed=0, **json.loads(options))


CHECKS: Mapping[str, Callable[..., bool]] = {"maths": maths, "reasoning_gym": reasoning_gym}


def _warm_up(kind: str) -> None:
    if kind == "maths":
        math_equality.equal(r"\frac{1}{2}", "0.5")
        math_equality.equal(r"\{1,2\}", r"(x+1)^2")
    else:
        import_module("reasoning_gym")


def main() -> None:
    """Serve until standard input ends."""
    kind = sys.argv[2]
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0)
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # output of a library must not be read as a reply
    _warm_up(kind)
    replies.write(b"ready\n")
    while True:
        child = os.fork()
        if child == 0:
            os._exit(_serve(CHECKS[kind], replies))
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status == _ENDED:
            return
        if status != _ENOUGH:
            replies.write(b"late\n" if status == -signal.SIGALRM else b"limit\n")


def _serve(check: Callable[..., bool], replies: BinaryIO) -> int:
    _limit_memory()
    questions = os.fdopen(0, "rb", closefd=False)
    for _ in range(sandbox.ANSWERS):
        line = questions.readline()
        if not line:
            return _ENDED
        replies.write(b"right\n" if _within_limits(check, json.loads(line)) else b"wrong\n")
    return _ENOUGH


def _within_limits(check: Callable[..., bool], question: Mapping[str, Any]) -> bool:
    _set_clocks(sandbox.PROCESSOR_SECONDS, sandbox.CLOCK_SECONDS)
    try:
        return check(**question)
    except MemoryError:
        os._exit(1)
    except (Exception, SystemExit):  # sympy raises many kinds on malformed mathematics, and training must continue
        return False
    finally:
        _set_clocks(0, 0)


def _set_clocks(processor: float, clock: float) -> None:
    # Nothing handles their signals: the kernel ends the process, also inside C code.
    signal.setitimer(signal.ITIMER_PROF, processor)
    signal.setitimer(signal.ITIMER_REAL, clock)


def _limit_memory() -> None:
    limit = _address_space() + sandbox.MEMORY_BYTES
    with suppress(ValueError, OSError):  # macOS has no such limit
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _address_space() -> int:
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    except OSError:
        return 0
    return pages * resource.getpagesize()
