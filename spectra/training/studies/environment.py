"""Command and environment of the processes that a study starts for one run."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import Field

from spectra.config import Section
from spectra.errors import RecipeError

DEVICES = "CUDA_VISIBLE_DEVICES"
STUDY = "SPECTRA_STUDY"  # id of the study's process, which its workers outlive by a second
_FIRST_PORT = 29511


class LaunchRecipe(Section):
    """How each run of a study is launched.

    Attributes
    ----------
    config
        File of ``accelerate config``, such as those of ``training/launch/``; relative to the working directory.
    processes
        Processes per run; null takes the number in the file.
    """

    config: str
    processes: int | None = Field(default=None, ge=1)


def check_launch(launch: LaunchRecipe | None) -> None:
    """Check that the launcher's file exists; raises :class:`RecipeError` if not."""
    if launch is not None and not Path(launch.config).expanduser().is_file():
        hint = "give a file of `accelerate config`, relative to the working directory"
        raise RecipeError("no such file", where=f"launch.config {launch.config}", hint=hint)


def worker_command(arguments: Sequence[str], launch: LaunchRecipe | None, workers: int) -> list[str]:
    """Return the command of a run's worker; with several workers, each launcher takes a free port."""
    worker = ["-m", "spectra.training.studies.worker", *arguments]
    if launch is None:
        return [sys.executable, *worker]
    count = [] if launch.processes is None else ["--num_processes", str(launch.processes)]
    port = ["--main_process_port", "0"] if workers > 1 else []
    config = str(Path(launch.config).expanduser())
    return [sys.executable, "-m", "accelerate.commands.launch", "--config_file", config, *count, *port, *worker]


def worker_environment(given: Mapping[str, str], devices: Sequence[str], slot: int, workers: int) -> dict[str, str]:
    """Return the environment of one of several concurrent workers.

    Parameters
    ----------
    given
        Environment of the study.
    devices
        The GPUs that the study may use, see :func:`visible_devices`.
    slot
        Index of the worker, from 0.
    workers
        Number of workers.
    """
    one_thread = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    own = {STUDY: str(os.getpid())}
    if devices:
        own[DEVICES] = ",".join(share(devices, slot, workers))
    # vLLM would use the same port in each of several workers.
    port = {} if workers == 1 or "MASTER_PORT" in given else {"MASTER_PORT": str(_FIRST_PORT + slot)}
    # More than one BLAS thread per process makes concurrent runs slower, not faster.
    return {**given, **one_thread, **own, **port}


def visible_devices(given: Mapping[str, str]) -> list[str]:
    """Return the GPUs visible in an environment, by number or name; all of them if it does not restrict them."""
    named = given.get(DEVICES)
    if named is not None:
        return [device.strip() for device in named.split(",") if device.strip()]
    import torch

    return [str(index) for index in range(torch.cuda.device_count())]


def share(devices: Sequence[str], slot: int, workers: int) -> list[str]:
    """Return a worker's consecutive share of the devices; with fewer devices than workers, one device.

    >>> share(["0", "1", "2", "3"], 1, 2), share(["0", "1"], 2, 3)
    (['2', '3'], ['1'])
    """
    count = len(devices)
    own = list(devices[slot * count // workers : (slot + 1) * count // workers])
    return own or [devices[slot % count]]
