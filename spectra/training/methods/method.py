"""Definition of a method: its table entry, and the hooks that some methods need."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, Literal

from pydantic import ValidationError

from spectra.config import KeyFault, Section, nearest
from spectra.training.methods.recipe_section import MethodRecipe
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
    """Options of a method that has none."""


@dataclass(frozen=True)
class RunContext:
    """Facts of a run that a method's configuration may need.

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
class InitializationContext:
    """Input of an initialization besides the model.

    Attributes
    ----------
    recipe
        The method's section.
    prompts
        Returns the first N prompts of the task, in the order of the run, each as a batch of one: ``input_ids`` and
        ``attention_mask``.
    """

    recipe: MethodRecipe
    prompts: Callable[[int], Sequence[Mapping[str, Any]]]


@dataclass(frozen=True)
class Peft:
    """Builds peft's configuration from the recipe section.

    Attributes
    ----------
    name
        Configuration class in ``peft``.
    arguments
        Argument names of the class for ``r``, ``alpha``, ``dropout``; options keep their names.
    seed
        Argument name for the seed of random frozen tensors; None if there are none.
    fixed
        Arguments that are the same in every recipe.
    """

    name: str
    arguments: Mapping[str, str] = field(default_factory=dict)
    seed: str | None = None
    fixed: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, recipe: MethodRecipe, context: RunContext) -> Any:
        """Return the configuration, with all target modules explicit instead of peft's defaults."""
        import peft

        given = {argument: getattr(recipe, key) for key, argument in self.arguments.items()}
        seeds = {} if self.seed is None else {self.seed: context.seed}
        settings = {**given, **seeds, **recipe.options, **self.fixed}
        return getattr(peft, self.name)(target_modules=recipe.target_modules, task_type="CAUSAL_LM", **settings)


@dataclass(frozen=True)
class Method:
    """One parameter-efficient method, or full fine-tuning.

    Attributes
    ----------
    facts
        Facts that do not depend on the trainer: name, type of adapter, ΔW, source.
    trains
        Trainable parameters, in words.
    defaults
        Accepted recipe keys, with their defaults.
    fixed
        Recipe keys that have only one value.
    options
        Model of the method-specific options.
    refused
        Options that users might expect, with the reason why they cannot work.
    config
        Builds peft's configuration; None trains every parameter.
    targets
        Type of layer that it changes.
    rules
        Conditions on the shapes of the targets.
    size
        Number of trainable weights, from the section and the shapes of the targets; None if there is no formula.
    learning_rate
        Default of the recipe, which trains well on the base model that ships with spectra.
    needs
        Import name and distribution name of a package that it needs besides peft.
    initialize
        Called with the model after the adapter is created, to initialize it.
    optimizer
        Builds the optimizer from the model, the section and the recipe's optimizer section; None takes AdamW.
    after_step
        Called with model, optimizer and step (from 1) after each optimizer step, before gradients are cleared.
    penalty
        Term that is added to the loss, from the model and the section.
    check_steps
        Raises :class:`KeyFault` if the section does not fit the number of steps.
    notes
        Pitfalls.
    """

    facts: MethodFacts
    trains: str
    defaults: Mapping[str, Any] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    options: type[Section] = NoOptions
    refused: Mapping[str, str] = field(default_factory=dict)
    config: Callable[[MethodRecipe, RunContext], Any] | None = None
    targets: Literal["linear", "norm", "embedding"] = "linear"
    rules: tuple[Rule, ...] = ()
    size: Callable[[MethodRecipe, Shapes], int] | None = None
    learning_rate: float = 1e-3
    needs: tuple[str, str] | None = None
    initialize: Callable[[Any, InitializationContext], None] | None = None
    optimizer: Callable[[Any, MethodRecipe, Any], Any] | None = None
    after_step: Callable[[Any, Any, int], None] | None = None
    penalty: Callable[[Any, MethodRecipe], Any] | None = None
    check_steps: Callable[[MethodRecipe, int], None] | None = None
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Name in a recipe."""
        return self.facts.name

    def resolve(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return a complete recipe section: the name of the method, and its defaults for missing keys.

        Raises
        ------
        KeyFault
            For a key or option that the method does not take.
        """
        stated = {key: item for key, item in given.items() if item is not None}
        for key in SECTION_KEYS:
            self._check_taken(key, stated.get(key))
        options = self._options(stated.get("options", {}))
        return {**self.defaults, **stated, "name": self.name, "options": options}

    def trainable(self, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, float] | None:
        """Return the number of trainable weights with the defaults, and their fraction of the base; None if unknown.

        Parameters
        ----------
        shapes
            Shape of every parameter of the base model, by name.
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
        """Return a summary of the method, as plain values.

        Parameters
        ----------
        shapes
            Shape of every parameter of the base model, for the trainable fraction.
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
            raise KeyFault(key, f"method {self.name} fixes {key} to {self.fixed[key]}; remove it or choose another one")

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
                raise KeyFault(f"options.{name}", f"method {self.name} cannot use it: {self.refused[name]}") from error
            near = nearest(name, allowed)
            hint = f"did you mean {near!r}?" if near else f"its options are {', '.join(allowed) or 'none'}"
            raise KeyFault(f"options.{name}", f"method {self.name} has no such option; {hint}") from error


def target_shapes(shapes: Mapping[str, tuple[int, ...]], targets: Sequence[str]) -> Shapes:
    """Return the weight shapes of the target modules by module name, from the shapes of all parameters."""
    modules = {name.removesuffix(".weight"): shape for name, shape in shapes.items() if name.endswith(".weight")}
    return {name: shape for name, shape in modules.items() if is_target(name, targets)}


def is_target(module: str, targets: Sequence[str]) -> bool:
    """Return whether a module is one of the targets, with peft's matching of names: in full, or by suffix."""
    return any(module == target or module.endswith(f".{target}") for target in targets)
