"""Only a whole checkpoint is gone on from."""

import json
from pathlib import Path

import pytest
import torch

from spectra.runs.layout import TRAINER_STATE, RunLayout
from spectra.training.loop.checkpoints import is_complete, newest_checkpoint


def checkpoint(layout: RunLayout, step: int) -> Path:
    directory = layout.checkpoints / f"checkpoint-{step}"
    directory.mkdir(parents=True)
    torch.save({"step": step}, directory / "optimizer.pt")
    (directory / TRAINER_STATE).write_text(json.dumps({"global_step": step}))
    return directory


def test_none_where_there_is_none(tmp_path: Path) -> None:
    assert newest_checkpoint(RunLayout(tmp_path)) is None


def test_the_newest_by_number_not_by_name(tmp_path: Path) -> None:
    layout = RunLayout(tmp_path)
    for step in (9, 10, 2):
        checkpoint(layout, step)
    assert newest_checkpoint(layout) == (layout.checkpoints / "checkpoint-10", 10)


def remove_state(directory: Path) -> None:
    (directory / TRAINER_STATE).unlink()


def tear_state(directory: Path) -> None:
    (directory / TRAINER_STATE).write_text('{"global_step": 1')


def tear_optimizer(directory: Path) -> None:
    file = directory / "optimizer.pt"
    file.write_bytes(file.read_bytes()[:-30])


def state_of_another_step(directory: Path) -> None:
    (directory / TRAINER_STATE).write_text('{"global_step": 3}')


@pytest.mark.parametrize("damage", [remove_state, tear_state, tear_optimizer, state_of_another_step])
def test_an_incomplete_one_is_passed_over_and_removed(damage: object, tmp_path: Path) -> None:
    layout = RunLayout(tmp_path)
    whole, torn = checkpoint(layout, 5), checkpoint(layout, 10)
    assert is_complete(torn, 10)
    damage(torn)  # type: ignore[operator]
    assert newest_checkpoint(layout) == (whole, 5)
    assert not torn.exists()


def test_each_process_must_have_saved_its_random_state(tmp_path: Path) -> None:
    layout = RunLayout(tmp_path)
    whole, torn = checkpoint(layout, 5), checkpoint(layout, 10)
    for directory, count in ((whole, 2), (torn, 1)):
        for index in range(count):
            torch.save({}, directory / f"rng_state_{index}.pth")
    assert is_complete(torn, 10)
    assert newest_checkpoint(layout, processes=2) == (whole, 5)


def test_other_things_beside_are_left_alone(tmp_path: Path) -> None:
    layout = RunLayout(tmp_path)
    checkpoint(layout, 5)
    (layout.checkpoints / "checkpoint-best").mkdir()
    assert newest_checkpoint(layout) == (layout.checkpoints / "checkpoint-5", 5)
    assert (layout.checkpoints / "checkpoint-best").exists()
