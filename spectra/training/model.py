"""The policy: base weights, the method on them, and what of it trains."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spectra.errors import BaseModelError, MissingInitialError, RecipeError
from spectra.runs.layout import ADAPTER_WEIGHTS
from spectra.training.methods import find_method
from spectra.training.recipe import Recipe
from spectra.weights.base import resolve_base

ADAPTER = "default"


@dataclass(frozen=True)
class Policy:
    """A model that is ready to train.

    Attributes
    ----------
    model
        The base, with the adapter on it unless every parameter trains.
    tokenizer
        Its tokenizer, padding on the left.
    base
        Directory of the base weights.
    """

    model: Any
    tokenizer: Any
    base: Path

    @property
    def trainable(self) -> dict[str, list[int]]:
        """Shape of each parameter that trains, named as in a snapshot's file."""
        parameters = self.model.named_parameters()
        return {snapshot_name(name): list(p.shape) for name, p in parameters if p.requires_grad}

    @property
    def trainable_count(self) -> int:
        """Number of weights that train."""
        return sum(p.numel() for p in self.model.parameters() if p.requires_grad)

    @property
    def trainable_share(self) -> float:
        """Weights that train, as a share of the base's."""
        adapters = 0 if not hasattr(self.model, "peft_config") else self.trainable_count
        total: int = sum(p.numel() for p in self.model.parameters())
        return self.trainable_count / (total - adapters)


def snapshot_name(name: str) -> str:
    """Return a parameter's name without the name of the adapter, as adapter files have it."""
    return name.replace(f".{ADAPTER}", "")


def build_policy(recipe: Recipe, initial: Path | None = None) -> Policy:
    """Load the base and put the method on it.

    Parameters
    ----------
    recipe
        The run's recipe; its seed decides the adapter's initialisation.
    initial
        The run's step-0 snapshot when it is resumed: a method that moves the base then subtracts these very factors.

    Raises
    ------
    BaseModelError
        If the base cannot be loaded.
    RecipeError
        If a target module is not in the base.
    MissingInitialError
        If ``initial`` is given, and the method needs it, and it is not there.
    """
    from transformers import AutoTokenizer, set_seed

    base = resolve_base(recipe.model.base, recipe.model.revision)
    model = _load(base, recipe.model.dtype)
    set_seed(recipe.seed)
    try:
        tokenizer = AutoTokenizer.from_pretrained(base, padding_side="left", trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise BaseModelError("holds no tokenizer", where=base, cure="add the tokenizer's files") from error
    return Policy(_attach(model, recipe, initial), tokenizer, base)


def _load(base: Path, dtype: str) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    try:
        return AutoModelForCausalLM.from_pretrained(base, dtype=getattr(torch, dtype), trust_remote_code=False)
    except (OSError, ValueError) as error:
        first = str(error).partition("\n")[0]
        raise BaseModelError(f"cannot be loaded ({first})", where=base, cure="give a causal language model") from error


def _attach(model: Any, recipe: Recipe, initial: Path | None) -> Any:
    from peft import get_peft_model

    method = find_method(recipe.method.name)
    if method.peft_config is None:
        return model.requires_grad_(True)
    _check_targets(model, recipe.method.target_modules or [])
    # get_peft_model moves the base in place for some methods; what stood there before decides the run.
    pristine = _weights(model) if method.moves_base else {}
    policy = get_peft_model(model, method.peft_config(recipe.method))
    if method.moves_base:
        _move_base(policy, pristine, initial)
    return policy


def _check_targets(model: Any, targets: list[str]) -> None:
    from torch import nn

    names = {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    missing = [target for target in targets if target.rpartition(".")[2] not in names]
    if missing:
        cure = f"choose among {', '.join(sorted(names))}"
        raise RecipeError(f"the base has no linear module {missing[0]!r}", where="method.target_modules", cure=cure)


def _weights(model: Any) -> dict[str, Any]:
    from torch import nn

    return {n: m.weight.detach().clone() for n, m in model.named_modules() if isinstance(m, nn.Linear)}


def _move_base(policy: Any, pristine: dict[str, Any], initial: Path | None) -> None:
    """Set each adapted base weight to W₀ − s·B₀A₀, from one formula at the start and on every resume."""
    import torch
    from peft import set_peft_model_state_dict
    from peft.tuners.tuners_utils import BaseTunerLayer
    from safetensors.torch import load_file

    if initial is not None:
        weights = initial / ADAPTER_WEIGHTS
        if not weights.exists():
            cure = "restore it, or start the run again with --overwrite"
            raise MissingInitialError("the step-0 adapter is gone, so the base cannot be set", where=weights, cure=cure)
        set_peft_model_state_dict(policy, load_file(weights), adapter_name=ADAPTER)
    with torch.no_grad():
        for name, layer in policy.base_model.model.named_modules():
            if isinstance(layer, BaseTunerLayer):
                weight = pristine[name]
                moved = weight.float() - layer.get_delta_weight(ADAPTER).float()
                layer.get_base_layer().weight.copy_(moved.to(weight.dtype))
