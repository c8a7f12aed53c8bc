"""Run independent tasks: in this process, in local worker processes, or on Ray."""

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool

import torch

from spectra.analysis.options import EngineName
from spectra.analysis.pipeline.tasks import ModuleResult, ModuleTask, TaskRunner
from spectra.errors import EngineError, MissingDependencyError, UsageError

# Float64 operations below which another process (seconds of imports) costs more than it saves.
_WORTH_A_PROCESS = 2e11


def choose_jobs(tasks: Sequence[ModuleTask], jobs: int | None) -> int:
    """Return the number of worker processes: the requested one, or one that suits the workload.

    Raises
    ------
    UsageError
        If ``jobs`` is not positive.
    """
    if jobs is not None:
        if jobs < 1:
            raise UsageError(f"--jobs must be at least 1, got {jobs}", hint="pass a positive number")
        return min(jobs, max(len(tasks), 1))
    # An SVD of an O × I matrix is about 10·O·I·min(O, I) operations; min ≤ √size.
    operations = sum(10 * task.size**1.5 * (1 + len(task.work.steps)) for task in tasks)
    return max(1, min(os.cpu_count() or 1, int(operations / _WORTH_A_PROCESS), len(tasks)))


def check_device(device: str) -> None:
    """Raise a one-line error if torch cannot compute in float64 on a device.

    Raises
    ------
    UsageError
        If the device does not exist, or does not support float64.
    """
    try:
        torch.zeros(1, dtype=torch.float64, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(
            f"--device {device} cannot be used ({reason})", hint="use cpu, or cuda if a GPU is available"
        ) from error


def run_tasks(
    runner: TaskRunner, tasks: Sequence[ModuleTask], *, jobs: int, engine: EngineName
) -> Iterator[ModuleResult]:
    """Yield results as they finish, largest matrices first.

    Raises
    ------
    SpectraError
        The error of a task; tasks that did not start are canceled.
    """
    ordered = sorted(tasks, key=lambda task: -task.size)
    if engine == "ray":
        yield from _run_ray(runner, ordered, jobs)
    elif jobs == 1:
        threads = torch.get_num_threads()
        _one_thread()
        try:
            yield from map(runner.run, ordered)
        finally:
            torch.set_num_threads(threads)
    else:
        yield from _run_processes(runner, ordered, jobs)


def _run_processes(runner: TaskRunner, tasks: Sequence[ModuleTask], jobs: int) -> Iterator[ModuleResult]:
    context = multiprocessing.get_context("spawn")  # a forked BLAS can deadlock
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_begin_worker, initargs=(runner,)) as pool:
        futures: list[Future[ModuleResult]] = [pool.submit(_run_in_worker, task) for task in tasks]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool as error:
            raise EngineError(
                "a worker process died: out of memory, or a script without the guard `if __name__ == '__main__':`",
                hint="use --jobs 1 (Options(jobs=1)), or guard the script; finished rows are kept",
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


# The runner of a worker process, set once when that process starts: the pool gives a worker no other place to keep it.
_of_worker: TaskRunner | None = None


def _begin_worker(runner: TaskRunner) -> None:
    global _of_worker
    _one_thread()
    _of_worker = runner


def _run_in_worker(task: ModuleTask) -> ModuleResult:
    if _of_worker is None:
        raise EngineError("this process is no worker of an analysis")
    return _of_worker.run(task)


def _one_thread() -> None:
    # One thread per job: BLAS threads on shared cores slow each other down, and small matrices gain nothing.
    torch.set_num_threads(1)


def _run_ray(runner: TaskRunner, tasks: Sequence[ModuleTask], jobs: int) -> Iterator[ModuleResult]:
    try:
        import ray
    except ImportError as error:
        raise MissingDependencyError(
            f"--engine ray needs Ray ({error})", hint="`pip install 'spectra-rlvr[ray]'`, or --engine local"
        ) from error
    if not ray.is_initialized():
        ray.init(num_cpus=jobs, include_dashboard=False, log_to_driver=False, configure_logging=False)
    remote = ray.remote(num_cpus=1, max_retries=2)(TaskRunner.run)
    shared = ray.put(runner)
    waiting = [remote.remote(shared, task) for task in tasks]
    while waiting:
        done, waiting = ray.wait(waiting)
        try:
            yield ray.get(done[0])
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error
