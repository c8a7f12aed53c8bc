"""A run, its base and its initialization are opened once, whatever they are asked for."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch

from spectra.errors import BaseModelError, CorruptFileError, UsageError
from spectra.weights.opened_run import OpenedRun
from tests.builders import lora_config, own_run, small_base, small_factors, trainer_run, write_adapter
from tests.counted import count_reads

MODULE = "model.layers.1.mlp.up_proj"


@pytest.fixture
def opened(tmp_path: Path) -> OpenedRun:
    return OpenedRun.open(trainer_run(tmp_path / "run", small_base(tmp_path / "base")))


def test_updates_and_weights(opened: OpenedRun) -> None:
    b, a = small_factors(scale=2e-3)[MODULE]
    update = opened.updates(2).matrices[MODULE](opened.weight(MODULE))
    torch.testing.assert_close(update.dense(), 2 * b.float().double() @ a.float().double())
    assert opened.updates() is opened.updates(10)
    assert (opened.method, opened.initialization, opened.newest.step) == ("lora", None, 10)
    assert opened.parameter(MODULE) == f"{MODULE}.weight"


def test_what_is_not_there_is_said(opened: OpenedRun) -> None:
    with pytest.raises(UsageError, match=r"there is no snapshot of step 3; steps: \[2, 10\]"):
        opened.updates(3)
    with pytest.raises(UsageError, match="the base has no parameter 'x'"):
        opened.weight("x")


def test_the_base_is_looked_for_beside_the_run(tmp_path: Path) -> None:
    small_base(tmp_path / "base")
    run = trainer_run(tmp_path / "run", Path("base"))
    assert OpenedRun.open(run).base_dir == tmp_path / "base"
    other = small_base(tmp_path / "other")
    named = OpenedRun.open(run, base=str(other))
    assert (named.base_dir, named.base_name, named.base_revision) == (other, str(other), None)
    shutil.rmtree(tmp_path / "base")
    with pytest.raises(BaseModelError, match="its base model 'base'"):
        _ = OpenedRun.open(run).base_dir


def test_a_newest_snapshot_that_is_half_written_is_passed_over(opened: OpenedRun) -> None:
    file = opened.run.snapshots[-1].path / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    assert opened.newest.step == 2
    with pytest.raises(CorruptFileError, match="cannot be read as safetensors"):
        opened.updates(10)


def test_the_initialization_is_the_step_0_of_the_run(tmp_path: Path) -> None:
    run = own_run(tmp_path / "run", small_base(tmp_path / "base"))
    for snapshot in OpenedRun.open(run).run.snapshots:
        write_adapter(
            snapshot.path,
            lora_config(str(tmp_path / "base"), init_lora_weights="milora"),
            small_factors(scale=1e-3 * (1 + snapshot.step)),
        )
    opened = OpenedRun.open(run)
    start = opened.initialization
    assert start is not None and start.origin == "the run's own step 0"
    weight = opened.weight(MODULE)
    assert not opened.updates(0).matrices[MODULE](weight).dense().any()
    assert opened.updates(4).matrices[MODULE](weight).dense().any()
    copy = pickle.loads(pickle.dumps(opened))
    for step in (0, 4):
        there, here = (one.updates(step).matrices[MODULE](weight).dense() for one in (copy, opened))
        assert torch.equal(there, here)


def test_each_file_is_opened_and_each_configuration_parsed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = own_run(tmp_path / "run", small_base(tmp_path / "base"))
    counts = count_reads(tmp_path, monkeypatch)
    opened = OpenedRun.open(run)
    for step in (0, 2, 4):
        for module, update in opened.updates(step).matrices.items():
            update(opened.weight(module)).dense()
    snapshots = [
        f"run/snapshots/step_{step:06d}/adapter_{part}"
        for step in (0, 2, 4)
        for part in ("config.json", "model.safetensors")
    ]
    assert counts == dict.fromkeys([*snapshots, "run/manifest.json", "base/config.json", "base/model.safetensors"], 1)
    again = pickle.loads(pickle.dumps(opened))  # as a worker process gets it: what is parsed stays parsed
    counts.clear()
    again.updates(4).matrices[MODULE](again.weight(MODULE)).dense()
    assert counts == dict.fromkeys(["base/model.safetensors", "run/snapshots/step_000004/adapter_model.safetensors"], 1)


def test_a_broken_configuration_of_the_base_is_named(opened: OpenedRun) -> None:
    (opened.base_dir / "config.json").write_text(json.dumps([1]))
    with pytest.raises(CorruptFileError, match="is not a JSON object"):
        _ = opened.base.config
