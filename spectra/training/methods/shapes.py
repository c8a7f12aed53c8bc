"""Conditions of a method on the weight shapes of the base model, and its number of trainable weights."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources
from math import gcd
from typing import Literal

from spectra.errors import RecipeError
from spectra.runs.layout import MODEL_WEIGHTS
from spectra.training.methods.recipe_section import MethodRecipe

# Shape of each target's weight by module name: (out, in) of a matrix, (features,) of a norm.
Shapes = Mapping[str, tuple[int, ...]]
Side = Literal["out", "in", "smaller", "product"]
# Raises RecipeError for the first target whose shape does not fit the recipe.
Rule = Callable[[MethodRecipe, Shapes], None]


@dataclass(frozen=True)
class Divides:
    """Rule: a number of the recipe must divide sides of every target's weight.

    Attributes
    ----------
    key
        ``r``, or ``options.`` and a name.
    sides
        Sides that it must divide.
    when
        Option and value for which the rule applies; None applies always.
    """

    key: str
    sides: tuple[Side, ...] = ("out", "in")
    when: tuple[str, object] | None = None

    def __call__(self, recipe: MethodRecipe, shapes: Shapes) -> None:
        """Check every target."""
        if self.when is not None and recipe.options.get(self.when[0]) != self.when[1]:
            return
        number = number_of(recipe, self.key)
        common = gcd(*(side(shape, name) for shape in shapes.values() for name in self.sides))
        for module, shape in shapes.items():
            for name in self.sides:
                if side(shape, name) % number:
                    fault = f"{number} does not divide the {name}-features of {_described(module, shape)}"
                    raise RecipeError(fault, where=f"method.{self.key}", hint=f"choose a divisor of {common}")


@dataclass(frozen=True)
class AtMost:
    """Rule: a number of the recipe must not exceed a side of any target's weight.

    Attributes
    ----------
    key
        ``r``, or ``options.`` and a name.
    side
        A side, the smaller one, or the product of both.
    """

    key: str
    side: Side = "smaller"

    def __call__(self, recipe: MethodRecipe, shapes: Shapes) -> None:
        """Check every target."""
        number = number_of(recipe, self.key)
        limit = min(side(shape, self.side) for shape in shapes.values())
        for module, shape in shapes.items():
            if number > side(shape, self.side):
                fault = f"{number} is too large for {_described(module, shape)}"
                raise RecipeError(fault, where=f"method.{self.key}", hint=f"choose {limit} or less")


def number_of(recipe: MethodRecipe, key: str) -> int:
    """Return the number to which a rule applies."""
    option = key.removeprefix("options.")
    return int(recipe.options[option] if option != key else getattr(recipe, key))


def side(shape: tuple[int, ...], name: Side) -> int:
    """Return a side of a weight.

    >>> [side((4, 6), name) for name in ("out", "in", "smaller", "product")]
    [4, 6, 4, 24]
    """
    out, inner = shape[0], shape[-1]
    return {"out": out, "in": inner, "smaller": min(out, inner), "product": out * inner}[name]


def each(count: Callable[[MethodRecipe, int, int], int]) -> Callable[[MethodRecipe, Shapes], int]:
    """Return the size function of a method that trains ``count(recipe, out, in)`` weights per target."""

    def size(recipe: MethodRecipe, shapes: Shapes) -> int:
        return sum(count(recipe, shape[0], shape[-1]) for shape in shapes.values())

    return size


def rank(recipe: MethodRecipe) -> int:
    """Return the rank in a section."""
    return number_of(recipe, "r")


def embedded_shapes() -> dict[str, tuple[int, ...]]:
    """Return the shape of each parameter of the embedded base model, from the file header, without torch."""
    with (resources.files("spectra.weights") / "embedded" / MODEL_WEIGHTS).open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return {name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}


def _described(module: str, shape: tuple[int, ...]) -> str:
    return f"{module} ({' × '.join(map(str, shape))})"
