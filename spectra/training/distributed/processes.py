"""Processes of one run, as started by a launcher (``accelerate launch``, ``torchrun``).

Only the main process writes. Shared decisions are made there and broadcast; when the processes fail, one of them
reports why.
"""

import atexit
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

from spectra.errors import EngineError, RecipeError, SpectraError
from spectra.training.compat.accelerate import name_cpu_plainly, sharded_by, wants_cpu
from spectra.training.compat.torch import count_up, lost_connection
from spectra.training.methods import Method
from spectra.training.recipe.recipe import Recipe

T = TypeVar("T")

# The other processes wait while one evaluates, or writes a large snapshot.
_PATIENCE = timedelta(hours=2)
# A launcher stops all processes as soon as one has ended, so the one that reports must end first.
_REPORTING_SECONDS = 5.0
_FAULT = "spectra/fault"


@dataclass(frozen=True)
class Processes:
    """One process among those that train a run.

    Attributes
    ----------
    index
        Rank of the process, from 0.
    count
        Number of processes.
    """

    index: int = 0
    count: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes."""
        return self.index == 0

    def once(self, work: Callable[[], T]) -> T:
        """Call a function on the main process only, and return its result on all.

        Raises
        ------
        SystemExit
            On the other processes, without an error message, if the main process raises.
        """
        if self.count == 1:
            return work()
        if not self.is_main:
            result, code = self._broadcast(None)
            if code:
                _leave(code)
            return result  # type: ignore[no-any-return]  # what `work` returned on the main process
        try:
            result = work()
        except BaseException as error:
            self._broadcast((None, getattr(error, "exit_code", 1)))
            raise
        self._broadcast((result, 0))
        return result

    def gather(self, value: T) -> list[T]:
        """Return the values of all processes, by rank; every process must call it."""
        if self.count == 1:
            return [value]
        import torch

        values: list[Any] = [None] * self.count
        torch.distributed.all_gather_object(values, value)
        return values

    def part(self, items: list[T]) -> list[T]:
        """Return this process's share of a list: equal sizes, the last share padded from the start of the list.

        >>> Processes(0, 2).part([1, 2, 3]), Processes(1, 2).part([1, 2, 3])
        ([1, 2], [3, 1])
        """
        size = -(-len(items) // self.count)
        return [items[at % len(items)] for at in range(self.index * size, (self.index + 1) * size)] if items else []

    def _broadcast(self, value: Any) -> Any:
        import torch

        values = [value]
        torch.distributed.broadcast_object_list(values, src=0)
        return values[0]


ALONE = Processes()


@dataclass(frozen=True)
class Batch:
    """Distribution of the completions of one optimizer step over processes and forward passes.

    Attributes
    ----------
    per_device
        Completions per forward pass and process.
    accumulation
        Forward passes per step and process (gradient accumulation).
    """

    per_device: int
    accumulation: int


def join() -> Processes:
    """Join the processes of a launcher; without one, return a single process. Idempotent."""
    from accelerate import PartialState

    if on_cpu():
        name_cpu_plainly()
    state = PartialState(cpu=on_cpu(), timeout=_PATIENCE)
    if state.num_processes > 1:
        atexit.register(_leave_group)
    return Processes(state.process_index, state.num_processes)


def _leave_group() -> None:
    """Leave the process group before the interpreter exits: gloo's threads would abort the process."""
    import torch

    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def on_cpu() -> bool:
    """Return whether to train on the CPU: requested of the launcher, or no GPU. Processes then communicate by gloo."""
    import torch

    return wants_cpu() or not torch.cuda.is_available()


def divide(recipe: Recipe, count: int) -> Batch:
    """Divide the completions of a step into ``count`` processes × per device × accumulation.

    Raises
    ------
    RecipeError
        If they cannot be divided evenly.
    """
    total = recipe.completions_per_step
    numbers = f"prompts_per_step × generations = {recipe.prompts_per_step} × {recipe.algorithm.generations} = {total}"
    if recipe.algorithm.dynamic_rounds is not None and recipe.prompts_per_step % count:
        fault = f"{recipe.prompts_per_step} prompts cannot be divided among {count} processes"
        hint = f"dynamic sampling needs whole groups per process: choose a multiple of {count}"
        raise RecipeError(fault, where="prompts_per_step", hint=hint)
    if total % count:
        fault = f"{numbers} completions cannot be divided among {count} processes"
        raise RecipeError(fault, where="prompts_per_step", hint="choose a multiple")
    per_device = recipe.micro_batch or total // count
    if total % (count * per_device):
        fault = f"{numbers} completions cannot be divided among {count} processes in passes of {per_device}"
        raise RecipeError(fault, where="micro_batch", hint=f"choose a divisor of {total // count}")
    return Batch(per_device, total // (count * per_device))


def check_sharding(method: Method, trainable_dtype: str = "float32") -> None:
    """Refuse methods and dtypes that do not work with sharding.

    Raises
    ------
    RecipeError
        If the method has its own optimizer under FSDP, or needs gradients and weights between steps under FSDP or
        DeepSpeed, or is to be trained in bfloat16 under either: both keep trained weights in float32.
    """
    shards = sharded_by()
    if shards is not None and trainable_dtype == "bfloat16":
        fault = f"cannot be bfloat16 under {shards}, which keeps trained weights in float32"
        raise RecipeError(fault, where="model.trainable_dtype", hint="remove it, or launch without sharding")
    where, hint = f"method {method.name}", "launch without sharding: accelerate launch --multi_gpu"
    if shards is not None and method.after_step is not None:
        raise RecipeError(f"needs full weights and gradients, which {shards} shards", where=where, hint=hint)
    if shards == "FSDP" and method.optimizer is not None:
        raise RecipeError("has its own optimizer, which FSDP does not support", where=where, hint=hint)


@contextmanager
def report_once(processes: Processes) -> Iterator[None]:
    """Report an error once: the first failing process raises, the others exit silently.

    An error in one process makes the others fail where they wait for it, and their errors would be noise.

    Raises
    ------
    EngineError
        If another process is gone without an error message, for example killed by the system.
    """
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        if processes.count == 1:
            raise
        if not _is_first():
            _leave(error.exit_code if isinstance(error, SpectraError) else 1)
        if lost_connection(error):
            hint = "find out why it ended (out of memory?) and launch again: the run resumes"
            raise EngineError("another process of this run exited without an error message", hint=hint) from error
        raise


def _is_first() -> bool:
    """Return whether no other process has failed before; False also if the shared counter is unreachable."""
    try:
        return count_up(_FAULT) == 1
    except RuntimeError:
        return False


def _leave(code: int) -> NoReturn:
    """Exit without an error message, after the process that reports."""
    time.sleep(_REPORTING_SECONDS)
    raise SystemExit(code) from None
