"""One of two processes that decide together, and fail: started by the tests."""

import os
import signal
import sys
from pathlib import Path

import torch

from spectra.errors import DivergedError, RunExistsError, SpectraError
from spectra.training.distributed import processes
from spectra.training.distributed.processes import Processes, join, report_once


def talk(we: Processes) -> None:
    """What works: one decides, all hear it, and every part is counted."""
    decided = we.once(lambda: f"decided by {we.index}")
    parts = we.gather(we.part(["a", "b", "c"]))
    print(we.index, we.count, decided, parts, flush=True)


def refuse(we: Processes) -> None:
    """What only the main process finds wrong."""

    def look() -> None:
        raise RunExistsError("is taken", where="run", hint="choose another --out")

    we.once(look)


def fail_alone(we: Processes) -> None:
    """A fault of the second process, while the first one waits for it."""
    if we.index == 1:
        raise DivergedError("the second process diverged")
    torch.distributed.barrier()


def fail_together(we: Processes) -> None:
    """A fault that every process sees."""
    raise DivergedError("all diverged")


def vanish(we: Processes) -> None:
    """The second process is killed, while the first one waits for it."""
    if we.index == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    torch.distributed.barrier()


SCENES = {scene.__name__: scene for scene in (talk, refuse, fail_alone, fail_together, vanish)}


def play(scene: str, environment: dict[str, str], said: Path) -> None:
    """Play a scene in this process, which keeps what it prints in a file."""
    os.environ |= environment
    for stream, file in ((1, said), (2, os.devnull)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), stream)
    torch.set_num_threads(1)
    processes._REPORTING_SECONDS = 0.5
    joined = join()
    try:
        with report_once(joined):
            SCENES[scene](joined)
    except SpectraError as error:
        print(error, flush=True)
        sys.exit(error.exit_code)
