"""The facts about initializations against peft: which it has, which move the base, and what a load makes of them."""

from typing import Any

import pytest
import torch
from peft import LoraConfig, LoraGAConfig, PeftModel, get_peft_model
from torch import Tensor, nn

from spectra.weights.facts import INITIALIZATIONS, MILORA, Initialization, find_initialization, initialization_value

# An example of each family's values, and what peft asks for beside the value.
VALUES: dict[str, Any] = {"true": True, "false": False, "pissa_niter_": "pissa_niter_4"}
# LoftQ needs a GPU; CorDA and LoRA-GA need preparation, EVA the model's own inputs.
MADE = ("true", "gaussian", "orthogonal", "eva", "mica", "pissa_niter_", "pissa", "olora")


def build(weight: Tensor) -> nn.Module:
    model = nn.Sequential(nn.Linear(weight.shape[1], weight.shape[0], bias=False))
    model[0].weight.data = weight.clone()
    return model


def config(one: Initialization) -> LoraConfig:
    value = VALUES.get(one.name, one.name)
    more = {"lora_ga_config": LoraGAConfig()} if one.name == "lora_ga" else {}
    return LoraConfig(r=4, lora_alpha=8, target_modules=["0"], init_lora_weights=value, **more)


def frozen(model: Any) -> Tensor:
    weight: Tensor = model.base_model.model[0].base_layer.weight.detach()
    return weight


def test_every_initialization_that_peft_names_is_in_the_table() -> None:
    written = str(LoraConfig.__annotations__["init_lora_weights"])
    for one in INITIALIZATIONS:
        assert one.name in ("true", "false", "lora_ga") or f"'{one.name}" in written
    assert written.count("'") // 2 == len(INITIALIZATIONS) - 3
    assert f"'{MILORA.name}'" not in written


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("one", [one for one in INITIALIZATIONS if one.name in MADE], ids=lambda one: one.name)
def test_whether_it_moves_the_base_and_what_a_load_makes_of_it(one: Initialization, tmp_path: Any) -> None:
    torch.manual_seed(0)
    weight = torch.randn(24, 16)
    model = get_peft_model(build(weight), config(one))
    trained = frozen(model)
    assert one.moves_base == (not torch.equal(trained, weight))
    model.save_pretrained(tmp_path)
    torch.manual_seed(1)
    loaded = frozen(PeftModel.from_pretrained(build(weight), tmp_path))
    assert {
        "same": torch.allclose(loaded, trained, atol=1e-6) and not torch.equal(loaded, weight),
        "redrawn": not torch.allclose(loaded, trained, atol=1e-6) and not torch.equal(loaded, weight),
        "unmoved": torch.equal(loaded, weight),
    }[one.on_load]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("name", "on_load"), [("corda", "refused"), ("lora_ga", "unmoved")])
def test_a_load_of_those_that_need_preparation(name: str, on_load: str) -> None:
    one = find_initialization(name)
    assert one is not None
    assert one.on_load == on_load
    weight = torch.randn(24, 16)
    if on_load == "refused":
        with pytest.raises(ValueError, match="eigens"):
            get_peft_model(build(weight), config(one))
    else:
        assert torch.equal(frozen(get_peft_model(build(weight), config(one))), weight)


@pytest.mark.parametrize("one", [*INITIALIZATIONS, MILORA], ids=lambda one: one.name)
def test_what_moves_the_base_is_known_or_says_why_not(one: Initialization) -> None:
    assert one.moves_base == ((one.part is None) != (one.why_unknown is None))


def test_values_are_matched_as_peft_does() -> None:
    names = [None if (one := find_initialization(value)) is None else one.name for value in ("pissa", "pissa_niter_2")]
    assert names == ["pissa", "pissa_niter_"]
    assert [find_initialization(value) for value in ("pissa_2", "kaiming", "milora")] == [None, None, None]
    assert initialization_value({"init_lora_weights": None}) == "false"
