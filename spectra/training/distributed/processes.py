"""The processes that train one run together, as a launcher (``accelerate launch``, ``torchrun``) started them.

One of them, the main one, writes. What must be decided once is decided there and told to the others; and when they
fail, one of them says why.
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

# Evaluating, or writing a large snapshot, keeps the others waiting.
_PATIENCE = timedelta(hours=2)
# A launcher stops all processes as soon as one has ended: the one that says why must be it.
_SPEAKING_SECONDS = 5.0
_FAULT = "spectra/fault"


@dataclass(frozen=True)
class Processes:
    """One process among those that train a run.

    Attributes
    ----------
    index
        Its number, from 0.
    count
        How many there are.
    """

    index: int = 0
    count: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes."""
        return self.index == 0

    def once(self, work: Callable[[], T]) -> T:
        """Do something on the main process, and return its result on all.

        Raises
        ------
        SystemExit
            On the others, without a word, where the main process raises.
        """
        if self.count == 1:
            return work()
        if not self.is_main:
            result, code = self._broadcast(None)
            if code:
                _leave(code)
            return result  # type: ignore[no-any-return]  # what `work` returned, over there
        try:
            result = work()
        except BaseException as error:
            self._broadcast((None, getattr(error, "exit_code", 1)))
            raise
        self._broadcast((result, 0))
        return result

    def gather(self, value: T) -> list[T]:
        """Return what each process gave, in their order; all of them must call it."""
        if self.count == 1:
            return [value]
        import torch

        values: list[Any] = [None] * self.count
        torch.distributed.all_gather_object(values, value)
        return values

    def part(self, items: list[T]) -> list[T]:
        """Return this process's share of a list: equally many on each, the last share filled up from the list's start.

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
    """How one optimizer step's completions lie over processes and forward passes.

    Attributes
    ----------
    per_device
        Completions of one forward pass on one process.
    accumulation
        Forward passes that a process adds up.
    """

    per_device: int
    accumulation: int


def join() -> Processes:
    """Join the processes that a launcher started; without a launcher, this one is alone. Again, it changes nothing."""
    from accelerate import PartialState

    if on_cpu():
        name_cpu_plainly()
    state = PartialState(cpu=on_cpu(), timeout=_PATIENCE)
    if state.num_processes > 1:
        atexit.register(_leave_group)
    return Processes(state.process_index, state.num_processes)


def _leave_group() -> None:
    """Leave the other processes before the interpreter goes: gloo's threads abort one that ends while they run."""
    import torch

    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def on_cpu() -> bool:
    """Return whether to train on the CPU: the launcher says so, or there is no GPU. Processes then talk by gloo."""
    import torch

    return wants_cpu() or not torch.cuda.is_available()


def divide(recipe: Recipe, count: int) -> Batch:
    """Divide the completions of a step among ``count`` processes: processes × per device × accumulation.

    Raises
    ------
    RecipeError
        If they do not divide.
    """
    total = recipe.completions_per_step
    numbers = f"prompts_per_step × generations = {recipe.prompts_per_step} × {recipe.algorithm.generations} = {total}"
    if recipe.algorithm.dynamic_rounds is not None and recipe.prompts_per_step % count:
        fault = f"{recipe.prompts_per_step} prompts cannot be divided among {count} processes"
        hint = "dynamic sampling needs whole groups on each: choose a multiple"
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
    """Refuse what a method, or its weights, cannot do where the launcher shards.

    Raises
    ------
    RecipeError
        If it has an optimizer of its own under FSDP, or looks at gradients and weights between steps under FSDP or
        DeepSpeed, or is to be trained in bfloat16 under either: both keep what trains in float32.
    """
    shards = sharded_by()
    if shards is not None and trainable_dtype == "bfloat16":
        fault = f"cannot be bfloat16 under {shards}, which keeps what trains in float32"
        raise RecipeError(fault, where="model.trainable_dtype", hint="leave it out, or launch without sharding")
    where, hint = f"method {method.name}", "launch it without sharding: accelerate launch --multi_gpu"
    if shards is not None and method.after_step is not None:
        raise RecipeError(f"works on whole weights and gradients, which {shards} spreads", where=where, hint=hint)
    if shards == "FSDP" and method.optimizer is not None:
        raise RecipeError("has an optimizer of its own, which FSDP does not take", where=where, hint=hint)


@contextmanager
def one_voice(processes: Processes) -> Iterator[None]:
    """Let only the first process that fails in the block say why; the others end without a word.

    A fault of one process makes the others fail where they wait for it, and what they would say then is noise.

    Raises
    ------
    EngineError
        If another process is gone and said nothing, as when the system killed it.
    """
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        if processes.count == 1:
            raise
        if not _is_first():
            _leave(error.exit_code if isinstance(error, SpectraError) else 1)
        if lost_connection(error):
            hint = "see what ended it (memory?) and launch again: the run goes on"
            raise EngineError("another process of this run ended without a word", hint=hint) from error
        raise


def _is_first() -> bool:
    """Return whether no other process has failed before; False also where nobody is left to ask."""
    try:
        return count_up(_FAULT) == 1
    except RuntimeError:
        return False


def _leave(code: int) -> NoReturn:
    """End without a word, and after the process that says why."""
    time.sleep(_SPEAKING_SECONDS)
    raise SystemExit(code) from None
