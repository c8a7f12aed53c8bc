"""Build the policy: base model, adapter, and trainable parameters."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from spectra.errors import BaseModelError, RecipeError
from spectra.training.compat.library_warnings import harmless_ignored
from spectra.training.compat.transformers import generate_in_bfloat16
from spectra.training.data.dataset import prompt_order, training_problems
from spectra.training.methods import InitializationContext, Method, RunContext, find_method
from spectra.training.policy.initial_factors import read_initial
from spectra.training.policy.targets import checked_shapes
from spectra.training.recipe.optimization import ModelRecipe
from spectra.training.recipe.recipe import Recipe
from spectra.weights.storage.base import resolve_base

ADAPTER = "default"


@dataclass(frozen=True)
class Policy:
    """A model that is ready to train.

    Attributes
    ----------
    model
        The base model, with the adapter unless every parameter trains.
    tokenizer
        Its tokenizer, with left padding.
    base
        Directory of the base weights.
    base_count
        Number of weights of the base model.
    """

    model: Any
    tokenizer: Any
    base: Path
    base_count: int

    @property
    def trainable(self) -> dict[str, list[int]]:
        """Shape of each trainable parameter, by its name in a snapshot file."""
        parameters = self.model.named_parameters()
        return {snapshot_name(name): list(p.shape) for name, p in parameters if p.requires_grad}

    @property
    def trainable_count(self) -> int:
        """Number of trainable weights."""
        return sum(p.numel() for p in self.model.parameters() if p.requires_grad)

    @property
    def trainable_share(self) -> float:
        """Trainable weights as a fraction of the weights of the base model."""
        return self.trainable_count / self.base_count


def snapshot_name(name: str) -> str:
    """Return a parameter's name without the name of the adapter, as in adapter files."""
    return name.replace(f".{ADAPTER}", "")


def build_policy(recipe: Recipe, initial: Path | None = None) -> Policy:
    """Load the base model and attach the adapter of the method.

    Parameters
    ----------
    recipe
        The run's recipe; its seed determines the adapter's initialization.
    initial
        Step-0 snapshot of a resumed run: a method that moves the base subtracts these factors.

    Raises
    ------
    BaseModelError
        If the base cannot be loaded.
    RecipeError
        If a target module is not in the base model, or its shape does not fit the method.
    MissingDependencyError
        If the method needs a package that is not installed.
    MissingInitialError
        If ``initial`` is given and needed by the method, but missing.
    """
    from transformers import AutoTokenizer, set_seed

    base, method = resolve_base(recipe.model.base, recipe.model.revision), find_method(recipe.method.name)
    model = _load(base, recipe.model.trainable_dtype if _trains_base(method) else recipe.model.dtype)
    count = sum(parameter.numel() for parameter in model.parameters())
    try:
        tokenizer = AutoTokenizer.from_pretrained(base, padding_side="left", trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise BaseModelError("has no tokenizer", where=base, hint="add the tokenizer's files") from error
    set_seed(recipe.seed)
    if method.config is None:
        policy = model.requires_grad_(True)
    else:
        context = InitializationContext(recipe.method, partial(_prompts, recipe, tokenizer, model.device))
        policy = _attach(model, method, recipe, context, initial)
    if recipe.model.dtype == "bfloat16":
        generate_in_bfloat16(policy)
    return Policy(policy, tokenizer, base, count)


def _trains_base(method: Method) -> bool:
    """Whether weights of the base model train, and not only an adapter."""
    return method.config is None or method.targets == "norm"


def _set_types(policy: Any, recipe: ModelRecipe, method: Method) -> None:
    """Set trained parameters to float32, since peft creates some in the base's dtype, and frozen ones to the base's."""
    import torch

    for parameter in policy.parameters():
        if not parameter.requires_grad and _trains_base(method):
            parameter.data = parameter.data.to(getattr(torch, recipe.dtype))
        elif parameter.requires_grad and parameter.is_floating_point() and recipe.trainable_dtype == "float32":
            parameter.data = parameter.data.float()


def _load(base: Path, dtype: str) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    try:
        return AutoModelForCausalLM.from_pretrained(base, dtype=getattr(torch, dtype), trust_remote_code=False)
    except (OSError, ValueError) as error:
        first = str(error).partition("\n")[0]
        raise BaseModelError(
            f"cannot be loaded ({first})", where=base, hint="choose a causal language model"
        ) from error


def _attach(model: Any, method: Method, recipe: Recipe, context: InitializationContext, initial: Path | None) -> Any:
    from peft import get_peft_model

    shapes = checked_shapes(model, method, recipe.method)
    # get_peft_model moves the base in place for some methods; the run needs the original weights.
    pristine = _weights(model) if method.facts.moves_base else {}
    with _peft_errors_of(method):
        config = method.config(recipe.method, RunContext(recipe.steps, recipe.seed, shapes)) if method.config else None
        policy = get_peft_model(model, config)
    if method.initialize is not None:
        method.initialize(policy, context)
    _set_types(policy, recipe.model, method)
    if method.facts.moves_base:
        _move_base(policy, pristine, initial, method.facts.saved_as_lora)
    return policy


@contextmanager
def _peft_errors_of(method: Method) -> Iterator[None]:
    """Turn peft's errors about a configuration into a RecipeError, and ignore harmless warnings."""
    with harmless_ignored():
        try:
            yield
        except (ValueError, TypeError, NotImplementedError) as error:
            first = str(error).partition("\n")[0]
            hint = f"see spectra methods {method.name}"
            raise RecipeError(
                f"peft rejects the configuration ({first})", where=f"method {method.name}", hint=hint
            ) from error


def _prompts(recipe: Recipe, tokenizer: Any, device: Any, count: int) -> list[Mapping[str, Any]]:
    """Return the first prompts of the task in the order of the run, each as a batch of one."""
    problems = training_problems(recipe.task)
    texts = []
    for index in prompt_order(len(problems), count, recipe.seed):
        prompt = problems[index].prompt
        plain = isinstance(prompt, str)
        texts.append(
            prompt if plain else tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
        )
    return [dict(tokenizer(text, return_tensors="pt").to(device)) for text in texts]


def _weights(model: Any) -> dict[str, Any]:
    from torch import nn

    return {n: m.weight.detach().clone() for n, m in model.named_modules() if isinstance(m, nn.Linear)}


def _move_base(policy: Any, pristine: dict[str, Any], initial: Path | None, stacked: bool) -> None:
    """Set each adapted base weight to W₀ − s·B₀A₀, with the same formula at the start and on every resume."""
    import torch
    from peft import set_peft_model_state_dict
    from peft.tuners.tuners_utils import BaseTunerLayer

    if initial is not None:
        set_peft_model_state_dict(policy, read_initial(initial, stacked=stacked), adapter_name=ADAPTER)
    with torch.no_grad():
        for name, layer in policy.base_model.model.named_modules():
            if isinstance(layer, BaseTunerLayer):
                weight = pristine[name]
                moved = weight.float() - layer.get_delta_weight(ADAPTER).float()
                layer.get_base_layer().weight.copy_(moved.to(weight.dtype))
