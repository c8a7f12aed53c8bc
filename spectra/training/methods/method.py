"""What a method is: one row of the table, with the hooks that some methods need."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, Literal

from pydantic import ValidationError

from spectra.config import KeyFault, Section, nearest
from spectra.training.methods.section import MethodRecipe
from spectra.training.methods.shapes import Rule, Shapes
from spectra.weights.facts import MethodFacts

LINEAR_MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
NORM_MODULES = ["input_layernorm", "post_attention_layernorm", "norm"]
# Defaults of many methods.
TARGETS: Mapping[str, Any] = {"target_modules": LINEAR_MODULES}
RANKED: Mapping[str, Any] = {**TARGETS, "r": 8}
SCALED: Mapping[str, Any] = {**RANKED, "alpha": 16.0}
SECTION_KEYS = ("r", "alpha", "dropout", "target_modules")


class NoOptions(Section):
    """A method without options of its own."""


@dataclass(frozen=True)
class Setting:
    """What a method may ask of the run that it is part of.

    Attributes
    ----------
    steps
        Optimizer steps of the run.
    seed
        The recipe's seed.
    shapes
        Shape of the weight of each target module.
    """

    steps: int
    seed: int
    shapes: Shapes


@dataclass(frozen=True)
class Start:
    """What an initialisation may need besides the model.

    Attributes
    ----------
    recipe
        The method's section.
    prompts
        Gives the task's prompts as batches of one: ``input_ids`` and ``attention_mask``, in the run's own order.
    """

    recipe: MethodRecipe
    prompts: Callable[[int], Sequence[Mapping[str, Any]]]


@dataclass(frozen=True)
class Peft:
    """Makes peft's configuration from the recipe section.

    Attributes
    ----------
    name
        Class in ``peft``.
    arguments
        What the class calls ``r``, ``alpha``, ``dropout`` of the section; options keep their names.
    seed
        What it calls the seed of its random frozen tensors; None where it has none.
    fixed
        Arguments that are the same in every recipe.
    """

    name: str
    arguments: Mapping[str, str] = field(default_factory=dict)
    seed: str | None = None
    fixed: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, recipe: MethodRecipe, setting: Setting) -> Any:
        """Return the configuration; every target module is named in it, none is left to peft's defaults."""
        import peft

        given = {argument: getattr(recipe, key) for key, argument in self.arguments.items()}
        seeds = {} if self.seed is None else {self.seed: setting.seed}
        settings = {**given, **seeds, **recipe.options, **self.fixed}
        return getattr(peft, self.name)(target_modules=recipe.target_modules, task_type="CAUSAL_LM", **settings)


@dataclass(frozen=True)
class Method:
    """One parameter-efficient method, or full fine-tuning.

    Attributes
    ----------
    facts
        What holds of the method whoever trains it: name, type of adapter, ΔW, source.
    trains
        Which parameters train.
    defaults
        Recipe keys that it takes, with their defaults.
    fixed
        Recipe keys that have only one value.
    options
        Model of the options that only this method has.
    refused
        Options that one might try here, with the reason why they cannot work.
    config
        Makes peft's configuration; None trains every parameter.
    targets
        Kind of layer that it changes.
    rules
        What the shapes of the targets must satisfy.
    size
        Number of weights that train, from the section and the shapes of the targets; None where no formula gives it.
    learning_rate
        The recipe's default: what trains well on the base that ships with spectra.
    needs
        Import and distribution name of a package that it needs besides peft.
    start
        Called with the model when the adapter is made, to initialise it.
    optimizer
        Makes the optimizer from the model, the section and the recipe's optimizer section; None is AdamW.
    after_step
        Called with model, optimizer and step (from 1) after each optimizer step, while gradients are still there.
    penalty
        Term that is added to the loss, from the model and the section.
    check_steps
        Raises :class:`KeyFault` where the section does not suit the number of steps.
    notes
        Traps.
    """

    facts: MethodFacts
    trains: str
    defaults: Mapping[str, Any] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    options: type[Section] = NoOptions
    refused: Mapping[str, str] = field(default_factory=dict)
    config: Callable[[MethodRecipe, Setting], Any] | None = None
    targets: Literal["linear", "norm", "embedding"] = "linear"
    rules: tuple[Rule, ...] = ()
    size: Callable[[MethodRecipe, Shapes], int] | None = None
    learning_rate: float = 1e-3
    needs: tuple[str, str] | None = None
    start: Callable[[Any, Start], None] | None = None
    optimizer: Callable[[Any, MethodRecipe, Any], Any] | None = None
    after_step: Callable[[Any, Any, int], None] | None = None
    penalty: Callable[[Any, MethodRecipe], Any] | None = None
    check_steps: Callable[[MethodRecipe, int], None] | None = None
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What a recipe calls it."""
        return self.facts.name

    def resolve(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return a recipe section complete: the method's name, and its defaults where a key is left out.

        Raises
        ------
        KeyFault
            For a key or option that the method does not take.
        """
        said = {key: item for key, item in given.items() if item is not None}
        for key in SECTION_KEYS:
            self._check_taken(key, said.get(key))
        options = self._options(said.get("options", {}))
        return {**self.defaults, **said, "name": self.name, "options": options}

    def trainable(self, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, float] | None:
        """Return how many weights of a base train with the defaults, and their share of the base; None if unknown.

        Parameters
        ----------
        shapes
            Shape of every parameter of the base, by name.
        """
        total = sum(map(prod, shapes.values()))
        if self.config is None:
            return total, 1.0
        if self.size is None:
            return None
        recipe = MethodRecipe.model_validate(self.resolve({}))
        count = self.size(recipe, target_shapes(shapes, recipe.target_modules or []))
        return count, count / total

    def summary(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
        """Return what a person or a program wants to know of the method, as plain values.

        Parameters
        ----------
        shapes
            Shape of every parameter of the base that the trainable share is of.
        """
        trainable = self.trainable(shapes)
        return {
            "name": self.name,
            "title": self.facts.title,
            "aliases": list(self.facts.aliases),
            "peft_type": self.facts.peft_type,
            "trains": self.trains,
            "trainable": None if trainable is None else trainable[0],
            "share": None if trainable is None else f"{trainable[1]:.2%}",
            "update": self.facts.update,
            "source": self.facts.source,
            "moves_base": self.facts.moves_base,
            "learning_rate": self.learning_rate,
            "defaults": dict(self.defaults),
            "options": self.options().model_dump(),
            "notes": list(self.notes),
        }

    def _check_taken(self, key: str, value: Any) -> None:
        if value is None:
            return
        if key not in self.defaults:
            raise KeyFault(key, f"method {self.name} takes no {key}; remove it")
        if value != self.fixed.get(key, value):
            raise KeyFault(key, f"method {self.name} has {key} {self.fixed[key]}; remove it, or choose another method")

    def _options(self, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        try:
            return self.options.model_validate(dict(given)).model_dump()
        except ValidationError as error:
            fault = error.errors()[0]
            name, allowed = str(fault["loc"][0]), list(self.options.model_fields)
            if fault["type"] != "extra_forbidden":
                expected = fault["msg"].removeprefix("Input should be ")
                raise KeyFault(f"options.{name}", f"{fault['input']!r} should be {expected}") from error
            if name in self.refused:
                raise KeyFault(f"options.{name}", f"method {self.name} cannot: {self.refused[name]}") from error
            near = nearest(name, allowed)
            hint = f"did you mean {near!r}?" if near else f"its options are {', '.join(allowed) or 'none'}"
            raise KeyFault(f"options.{name}", f"method {self.name} has no such option; {hint}") from error


def target_shapes(shapes: Mapping[str, tuple[int, ...]], targets: Sequence[str]) -> Shapes:
    """Return the shapes of the weights of the target modules, by module name, of all parameters' shapes."""
    modules = {name.removesuffix(".weight"): shape for name, shape in shapes.items() if name.endswith(".weight")}
    return {name: shape for name, shape in modules.items() if is_target(name, targets)}


def is_target(module: str, targets: Sequence[str]) -> bool:
    """Return whether a module is one of the targets, as peft matches names: in full, or by their last parts."""
    return any(module == target or module.endswith(f".{target}") for target in targets)
