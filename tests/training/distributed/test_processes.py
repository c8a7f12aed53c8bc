"""Who decides, who speaks, and how a step is divided."""

import signal
import socket
from contextlib import nullcontext
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from spectra.errors import RecipeError
from spectra.training.distributed import processes
from spectra.training.distributed.processes import (
    ALONE,
    Batch,
    Processes,
    check_sharding,
    divide,
    join,
    on_cpu,
    report_once,
)
from spectra.training.methods import find_method
from spectra.training.recipe.recipe import Recipe
from tests.training.distributed import deciding_processes

# Its processes have this module, and so torch, when they start: an import takes seconds.
FORKS = get_context("forkserver")
FORKS.set_forkserver_preload([deciding_processes.__name__])


def stage(scene: str, where: Path) -> list[tuple[int | None, list[str]]]:
    """Start both processes; return how each ended, and what it said."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    said = [where / str(rank) for rank in range(2)]
    started = [
        FORKS.Process(
            target=deciding_processes.play,
            args=(scene, {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}, file),
        )
        for rank, file in enumerate(said)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join()
    return [(process.exitcode, file.read_text().splitlines()) for process, file in zip(started, said, strict=True)]


def test_one_decides_and_all_hear_it(tmp_path: Path) -> None:
    heard = "2 decided by 0 [['a', 'b'], ['c', 'a']]"
    assert stage("talk", tmp_path) == [(0, [f"0 {heard}"]), (0, [f"1 {heard}"])]


@pytest.mark.parametrize(
    ("scene", "line"),
    [
        ("refuse", "run: is taken; choose another --out"),
        ("fail_alone", "the second process diverged"),
        ("fail_together", "all diverged"),
    ],
)
def test_a_fault_ends_all_and_is_said_once(scene: str, line: str, tmp_path: Path) -> None:
    ends = stage(scene, tmp_path)
    assert [code for code, _ in ends] == [1, 1]
    assert [text for _, said in ends for text in said] == [line]


def test_a_process_that_vanishes_is_told_of(tmp_path: Path) -> None:
    hint = "find out why it ended (out of memory?) and launch again: the run resumes"
    told = f"another process of this run exited without an error message; {hint}"
    assert stage("vanish", tmp_path) == [(1, [told]), (-signal.SIGKILL, [])]


def test_without_a_launcher_one_is_alone() -> None:
    assert join() == ALONE == Processes(0, 1)
    assert ALONE.is_main
    assert ALONE.once(lambda: 3) == 3
    assert ALONE.gather("x") == ["x"]
    assert ALONE.part(["a", "b"]) == ["a", "b"]
    with pytest.raises(ZeroDivisionError), report_once(ALONE):
        ALONE.once(lambda: 1 // 0)


def test_parts_cover_everything_and_are_equally_many() -> None:
    items = list(range(7))
    parts = [Processes(index, 3).part(items) for index in range(3)]
    assert parts == [[0, 1, 2], [3, 4, 5], [6, 0, 1]]
    assert Processes(1, 4).part([]) == []


def recipe(**sections: Any) -> Recipe:
    return Recipe.model_validate({"prompts_per_step": 12, "algorithm": {"generations": 4}, **sections})


@pytest.mark.parametrize(
    ("micro_batch", "count", "batch"),
    [
        (None, 1, Batch(48, 1)),
        (None, 2, Batch(24, 1)),
        (None, 16, Batch(3, 1)),
        (16, 1, Batch(16, 3)),
        (8, 2, Batch(8, 3)),
        (4, 3, Batch(4, 4)),
    ],
)
def test_processes_times_device_times_accumulation_is_the_step(
    micro_batch: int | None, count: int, batch: Batch
) -> None:
    assert divide(recipe(micro_batch=micro_batch), count) == batch
    assert count * batch.per_device * batch.accumulation == 48


@pytest.mark.parametrize(
    ("sections", "count", "message"),
    [
        ({}, 5, r"prompts_per_step × generations = 12 × 4 = 48 completions cannot be divided among 5 processes;"),
        (
            {"micro_batch": 16},
            2,
            r"48 completions cannot be divided among 2 processes in passes of 16; .* divisor of 24",
        ),
        (
            {"algorithm": {"generations": 4, "dynamic_rounds": 2}},
            8,
            "12 prompts cannot be divided among 8 processes; dynamic sampling needs whole groups per process",
        ),
    ],
)
def test_numbers_that_do_not_divide_are_named(sections: dict[str, Any], count: int, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        divide(recipe(**sections), count)


def test_groups_may_lie_on_two_processes_without_dynamic_sampling() -> None:
    assert divide(recipe(), 8) == Batch(6, 1)


@pytest.mark.parametrize(
    ("method", "variable", "message"),
    [
        (
            "lora_plus",
            "FSDP",
            "method lora_plus: has its own optimizer, which FSDP does not support; launch without",
        ),
        ("adalora", "FSDP", "method adalora: needs full weights and gradients, which FSDP shards; launch"),
        ("adalora", "DEEPSPEED", "method adalora: needs full weights and gradients, which DEEPSPEED shards;"),
        ("lora_plus", "DEEPSPEED", None),
        ("lora", "FSDP", None),
    ],
)
def test_what_cannot_be_sharded_is_refused(
    method: str, variable: str, message: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_sharding(find_method(method))
    monkeypatch.setenv(f"ACCELERATE_USE_{variable}", "true")
    with pytest.raises(RecipeError, match=message) if message else nullcontext():
        check_sharding(find_method(method))


@pytest.mark.parametrize("launcher", ["FSDP", "DEEPSPEED"])
def test_weights_in_bfloat16_are_refused_where_they_are_float32_anyway(
    launcher: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_sharding(find_method("full"), "bfloat16")
    monkeypatch.setenv(f"ACCELERATE_USE_{launcher}", "true")
    with pytest.raises(RecipeError, match=rf"model\.trainable_dtype: cannot be bfloat16 under {launcher}"):
        check_sharding(find_method("full"), "bfloat16")
    check_sharding(find_method("full"), "float32")


def test_the_launcher_may_ask_for_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert not on_cpu()
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    assert on_cpu()


def test_nobody_left_to_ask_is_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone() -> None:
        raise RuntimeError("connection reset")

    monkeypatch.setattr("torch.distributed.distributed_c10d._get_default_store", gone)
    monkeypatch.setattr(processes.time, "sleep", lambda seconds: None)
    with pytest.raises(SystemExit) as end, report_once(Processes(1, 2)):
        raise ConnectionError
    assert end.value.code == 1
