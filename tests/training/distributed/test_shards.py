"""What a library spread over processes is saved whole; what is not saved is not gathered."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from spectra.errors import UsageError
from spectra.runs.layout import RunLayout
from spectra.training.compat.deepspeed import whole_shape
from spectra.training.distributed.shards import generating, is_sharded, whole_state
from spectra.training.policy.policy import build_policy
from spectra.training.policy.snapshots import save_snapshot
from spectra.training.recipe.recipe import Recipe

Maker = Callable[..., Recipe]


@pytest.fixture
def gathered(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A stand-in for DeepSpeed that fills emptied parameters while they are asked for; returns which were."""
    seen: list[int] = []

    @contextmanager
    def fill(parameters: list[Any]) -> Iterator[None]:
        for parameter in parameters:
            seen.append(parameter.ds_id)
            parameter.data = parameter.whole
        yield
        for parameter in parameters:
            parameter.data = torch.empty(0)

    def master(parameter: Any) -> torch.Tensor:
        seen.append(getattr(parameter, "ds_id", getattr(parameter, "number", None)))
        found: torch.Tensor = parameter.whole.float()
        return found

    package, utils = ModuleType("deepspeed"), ModuleType("deepspeed.utils")
    package.zero = SimpleNamespace(GatheredParameters=fill)  # type: ignore[attr-defined]
    utils.safe_get_full_fp32_param = master  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "deepspeed", package)
    monkeypatch.setitem(sys.modules, "deepspeed.utils", utils)
    return seen


def empty(model: nn.Module) -> nn.Module:
    """Take the parameters away as ZeRO-3 does."""
    for number, parameter in enumerate(model.parameters()):
        parameter.ds_id, parameter.ds_shape, parameter.whole = number, parameter.shape, parameter.data
        parameter.data = torch.empty(0)
    return model


def contents(directory: Path) -> dict[str, Any]:
    """Every file; of tensors what they are, since the order of a header's entries is nobody's."""
    files = {path.name: path for path in directory.iterdir()}
    plain = {name: path.read_bytes() for name, path in files.items() if path.suffix == ".json"}
    (weights,) = files.keys() - plain.keys()
    return {**plain, weights: {name: tensor.tolist() for name, tensor in load_file(files[weights]).items()}}


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_snapshot_holds_the_masters_that_deepspeed_trains(
    method: str, recipe_for: Maker, tiny_base: Path, tmp_path: Path, gathered: list[int]
) -> None:
    model = build_policy(recipe_for(method={"name": method})).model
    whole = save_snapshot(model, RunLayout(tmp_path / "whole"), 1, str(tiny_base))
    for number, parameter in enumerate(model.parameters()):
        if parameter.requires_grad:  # ZeRO-2 leaves the parameter whole, in bfloat16
            parameter.number, parameter.whole, parameter._hp_mapping = number, parameter.data, None
            parameter.data = parameter.data.bfloat16()
    again = save_snapshot(model, RunLayout(tmp_path / "again"), 1, str(tiny_base))
    assert contents(again) == contents(whole)
    gathered.clear()
    save_snapshot(model, RunLayout(tmp_path / "other"), 1, str(tiny_base), writes=False)
    assert gathered  # takes part
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("method", ["lora", "lora_fa", "dora", "full"])
def test_a_snapshot_of_emptied_parameters_is_that_of_whole_ones(
    method: str, recipe_for: Maker, tiny_base: Path, tmp_path: Path, gathered: list[int]
) -> None:
    model = build_policy(recipe_for(method={"name": method})).model
    whole = save_snapshot(model, RunLayout(tmp_path / "whole"), 1, str(tiny_base))
    assert gathered == []
    trained = [n for n, p in enumerate(model.parameters()) if p.requires_grad]
    again = save_snapshot(empty(model), RunLayout(tmp_path / "again"), 1, str(tiny_base))
    assert contents(again) == contents(whole)
    assert set(trained) <= set(gathered)
    if method == "lora":
        assert gathered == trained  # the base stays where it is


def test_a_process_that_does_not_write_takes_part_and_keeps_nothing(
    recipe_for: Maker, tmp_path: Path, gathered: list[int]
) -> None:
    model = empty(build_policy(recipe_for()).model)
    save_snapshot(model, RunLayout(tmp_path / "run"), 1, "base", writes=False)
    assert gathered
    assert not (tmp_path / "run").exists()
    assert {tensor for name, tensor in whole_state(model, keep=False).items() if "lora_" in name} == {None}


def test_a_process_that_does_not_write_does_nothing_where_nothing_is_sharded(
    recipe_for: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build_policy(recipe_for()).model
    monkeypatch.setattr(model, "state_dict", lambda **options: pytest.fail("read"))
    save_snapshot(model, RunLayout(tmp_path / "run"), 1, "base", writes=False)
    assert not (tmp_path / "run").exists()


def test_tied_weights_are_gathered_once(gathered: list[int]) -> None:
    model = nn.ModuleDict({"a": nn.Linear(3, 3, bias=False), "b": nn.Linear(3, 3, bias=False)})
    model["b"].weight = model["a"].weight
    expected = model["a"].weight.detach().clone()
    state = whole_state(empty(model), keep=True)
    assert gathered == [0]
    assert state["a.weight"] is state["b.weight"]
    assert torch.equal(state["a.weight"], expected)
    assert whole_shape(model["a"].weight) == [3, 3]
    assert whole_shape(nn.Parameter(torch.zeros(2))) == [2]


def test_fsdp_1_is_refused() -> None:
    class FullyShardedDataParallel(nn.Module):
        pass

    with pytest.raises(UsageError, match="under FSDP 1 are not supported; set fsdp_version: 2"):
        whole_state(nn.Sequential(FullyShardedDataParallel()), keep=True)


def test_a_model_that_is_whole_generates_as_it_is() -> None:
    model = nn.Linear(2, 2)
    assert not is_sharded(model)
    with generating(model, None) as same:
        assert same is model


def test_an_emptied_model_generates_as_trl_gathers_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    @contextmanager
    def unwrap(wrapped: Any, accelerator: Any) -> Iterator[str]:
        asked.append((wrapped, accelerator))
        yield "whole"

    monkeypatch.setattr("trl.models.unwrap_model_for_generation", unwrap)
    trainer = SimpleNamespace(model_wrapped="engine", accelerator="accelerator")
    with generating(empty(nn.Linear(2, 2)), trainer) as whole:
        assert whole == "whole"
    assert asked == [("engine", "accelerator")]
