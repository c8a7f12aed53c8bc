"""The methods that spectra trains: one entry each, and the recipe section that chooses among them.

Another method is another entry in ``METHODS``; nothing else asks for a method by name.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from spectra.config import KeyFault, Section, nearest

LINEAR_MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class NoOptions(Section):
    """A method without options of its own."""


class LoraOptions(Section):
    """Options of LoRA and its kin.

    Attributes
    ----------
    init
        Distribution of A₀: ``kaiming`` uniform as in the LoRA code, or ``gaussian`` with variance 1/r².
    """

    init: Literal["kaiming", "gaussian"] = "kaiming"


class MethodRecipe(Section):
    """What trains. Keys that the method does not take are errors; keys left out take the method's own default.

    Attributes
    ----------
    name
        A name or alias from ``spectra methods``; the resolved recipe holds the name.
    r
        Rank of the factors.
    alpha
        Numerator of the scale s.
    dropout
        Dropout on the adapter's input while the gradient is computed.
    target_modules
        Names of the linear layers that get an adapter, listed in full.
    options
        What only this method has, see ``spectra methods NAME``.
    """

    name: str = "lora"
    r: int | None = Field(default=None, ge=1)
    alpha: float | None = Field(default=None, gt=0)
    dropout: float | None = Field(default=None, ge=0, lt=1)
    target_modules: list[str] | None = Field(default=None, min_length=1)
    options: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _resolve(cls, value: Any) -> Any:
        if not isinstance(value, Mapping) or not isinstance(value.get("name", "lora"), str):
            return value  # the field validators say what is wrong
        method = find_method(value.get("name", "lora"))
        given = {key: item for key, item in value.items() if item is not None}
        for key in ("r", "alpha", "dropout", "target_modules"):
            _check_taken(method, key, given.get(key))
        return {**method.defaults, **given, "name": method.name, "options": _options(method, given.get("options", {}))}


@dataclass(frozen=True)
class Method:
    """One parameter-efficient method, or full fine-tuning.

    Attributes
    ----------
    name, aliases
        What a recipe may call it.
    title
        Name as the literature writes it.
    trains
        Which parameters train.
    update
        ΔW as a formula; W is (out, in).
    source
        Paper and arXiv id.
    defaults
        Recipe keys that it takes, with their defaults.
    fixed
        Recipe keys that have only one value.
    options
        Model of the options that only this method has.
    peft_config
        Makes peft's configuration from the recipe section; None trains every parameter.
    moves_base
        Whether initialisation subtracts B₀A₀ from the base weights, so that the step-0 adapter is needed to know ΔW.
    notes
        Traps.
    """

    name: str
    title: str
    trains: str
    update: str
    source: str
    defaults: Mapping[str, Any] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()
    options: type[Section] = NoOptions
    peft_config: Callable[[MethodRecipe], Any] | None = None
    moves_base: bool = False
    notes: tuple[str, ...] = ()

    def summary(self) -> dict[str, Any]:
        """Return what a person or a program wants to know of the method, as plain values."""
        return {
            "name": self.name,
            "title": self.title,
            "aliases": list(self.aliases),
            "trains": self.trains,
            "update": self.update,
            "source": self.source,
            "moves_base": self.moves_base,
            "defaults": dict(self.defaults),
            "options": self.options().model_dump(),
            "notes": list(self.notes),
        }


def _lora(**settings: Any) -> Callable[[MethodRecipe], Any]:
    def build(recipe: MethodRecipe) -> Any:
        from peft import LoraConfig

        initial = {"init_lora_weights": {"kaiming": True, "gaussian": "gaussian"}[recipe.options["init"]]}
        return LoraConfig(**_shared(recipe), **{**initial, **settings})

    return build


def _pissa(recipe: MethodRecipe) -> Any:
    from peft import LoraConfig

    return LoraConfig(**_shared(recipe), init_lora_weights="pissa")


def _shared(recipe: MethodRecipe) -> dict[str, Any]:
    return {
        "r": recipe.r,
        "lora_alpha": recipe.alpha,
        "lora_dropout": recipe.dropout,
        "target_modules": recipe.target_modules,
        "bias": "none",
        "task_type": "CAUSAL_LM",
    }


_LORA_DEFAULTS: Mapping[str, Any] = {"r": 8, "alpha": 16.0, "dropout": 0.0, "target_modules": LINEAR_MODULES}

METHODS: tuple[Method, ...] = (
    Method(
        name="full",
        title="Full fine-tuning",
        aliases=("full_finetuning", "fft"),
        trains="every parameter of the base",
        update="W_t − W_0",
        source="the reference that the others are compared with",
        notes=("needs about a tenth of LoRA's learning rate",),
    ),
    Method(
        name="lora",
        title="LoRA",
        trains="A (r, in) and B (out, r) of each target module",
        update="s·B·A, s = alpha/r",
        source="Hu et al. 2021, arXiv:2106.09685",
        defaults=_LORA_DEFAULTS,
        options=LoraOptions,
        peft_config=_lora(),
    ),
    Method(
        name="rank1",
        title="Rank-1 LoRA",
        aliases=("rank-1",),
        trains="A (1, in) and B (out, 1) of each target module",
        update="s·B·A, s = alpha",
        source="Hu et al. 2021, arXiv:2106.09685, with r = 1",
        defaults={**_LORA_DEFAULTS, "r": 1, "alpha": 2.0},
        fixed={"r": 1},
        options=LoraOptions,
        peft_config=_lora(),
        notes=("the default alpha keeps the scale s of LoRA with r 8 and alpha 16",),
    ),
    Method(
        name="rslora",
        title="rsLoRA",
        trains="A (r, in) and B (out, r) of each target module",
        update="s·B·A, s = alpha/√r",
        source="Kalajdzievski 2023, arXiv:2312.03732",
        defaults=_LORA_DEFAULTS,
        options=LoraOptions,
        peft_config=_lora(use_rslora=True),
        notes=("the same alpha is a √r times larger step than LoRA's",),
    ),
    Method(
        name="dora",
        title="DoRA",
        trains="A (r, in), B (out, r) and a magnitude m (out,) of each target module",
        update="m / ‖W_0 + s·B·A‖_row ⊙ (W_0 + s·B·A) − W_0, s = alpha/r",
        source="Liu et al. 2024, arXiv:2402.09353",
        defaults=_LORA_DEFAULTS,
        options=LoraOptions,
        peft_config=_lora(use_dora=True),
        notes=("ΔW has full rank: the magnitude rescales every row of W_0",),
    ),
    Method(
        name="pissa",
        title="PiSSA",
        trains="A (r, in) and B (out, r), initialised from the r largest singular triplets of W_0",
        update="s·(B·A − B_0·A_0), s = alpha/r; rank at most 2r",
        source="Meng et al. 2024, arXiv:2404.02948",
        defaults=_LORA_DEFAULTS,
        peft_config=_pissa,
        moves_base=True,
        notes=(
            "the base becomes W_0 − s·B_0·A_0: on the pristine base the saved adapter is another model",
            "a learning rate that suits LoRA can destroy it: its factors start as large as the base's top directions",
            "beta must be 0: without the adapter the model is the residual one, not the reference",
        ),
    ),
)

_BY_NAME: Mapping[str, Method] = {name: method for method in METHODS for name in (method.name, *method.aliases)}


def find_method(name: str) -> Method:
    """Return the method of that name or alias.

    Raises
    ------
    KeyFault
        If there is none; names the nearest one.
    """
    method = _BY_NAME.get(name)
    if method is None:
        near = nearest(name, list(_BY_NAME))
        hint = f"choose one of {', '.join(m.name for m in METHODS)}" if near is None else f"did you mean {near!r}?"
        raise KeyFault("name", f"no method {name!r}; {hint}")
    return method


def _check_taken(method: Method, key: str, value: Any) -> None:
    if value is None:
        return
    if key not in method.defaults:
        raise KeyFault(key, f"method {method.name} takes no {key}; remove it")
    if value != method.fixed.get(key, value):
        raise KeyFault(key, f"method {method.name} has {key} {method.fixed[key]}; remove it, or choose another method")


def _options(method: Method, given: Any) -> Any:
    if not isinstance(given, Mapping):
        return given
    try:
        return method.options.model_validate(dict(given)).model_dump()
    except ValidationError as error:
        fault = error.errors()[0]
        name, allowed = str(fault["loc"][0]), list(method.options.model_fields)
        if fault["type"] != "extra_forbidden":
            expected = fault["msg"].removeprefix("Input should be ")
            raise KeyFault(f"options.{name}", f"{fault['input']!r} should be {expected}") from error
        near = nearest(name, allowed)
        hint = f"did you mean {near!r}?" if near else f"its options are {', '.join(allowed) or 'none'}"
        raise KeyFault(f"options.{name}", f"method {method.name} has no such option; {hint}") from error
