"""One of two processes that decide together, and fail: started by the tests.

Usage: RANK=0 WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=… python deciding_processes.py SCENE
"""

import os
import signal
import sys

import torch

from spectra.errors import DivergedError, RunExistsError, SpectraError
from spectra.training.distributed import processes
from spectra.training.distributed.processes import Processes, join, one_voice


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

if __name__ == "__main__":
    torch.set_num_threads(1)
    processes._SPEAKING_SECONDS = 0.5
    os.environ["LOCAL_RANK"] = os.environ["RANK"]
    joined = join()
    try:
        with one_voice(joined):
            SCENES[sys.argv[1]](joined)
    except SpectraError as error:
        print(error, flush=True)
        sys.exit(error.exit_code)
