"""The layers of a base that a method changes, checked before anything trains."""

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

from spectra.errors import MissingDependencyError, RecipeError
from spectra.training.methods import Method, MethodRecipe
from spectra.training.methods.method import is_target
from spectra.training.methods.shapes import Shapes


def checked_shapes(model: Any, method: Method, recipe: MethodRecipe) -> Shapes:
    """Return the shape of each target's weight, by module name.

    Parameters
    ----------
    model
        The base.
    method
        What will change it.
    recipe
        The method's section.

    Raises
    ------
    RecipeError
        If a target module is not in the base, or its shape does not suit the method.
    MissingDependencyError
        If the method needs a package that is not installed.
    """
    if method.needs is not None and find_spec(method.needs[0]) is None:
        hint = f"pip install {method.needs[1]}"
        raise MissingDependencyError(f"needs {method.needs[1]}", where=f"method {method.name}", hint=hint)
    targets = recipe.target_modules or []
    layers = dict(_layers(model, method))
    for target in targets:
        if not any(is_target(name, [target]) for name in layers):
            names = sorted({name.rpartition(".")[2] for name in layers})
            fault = f"the base has no {method.targets} module {target!r}"
            raise RecipeError(fault, where="method.target_modules", hint=f"choose among {', '.join(names)}")
    shapes = {name: shape for name, shape in layers.items() if is_target(name, targets)}
    for rule in method.rules:
        rule(recipe, shapes)
    return shapes


def _layers(model: Any, method: Method) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield name and weight's shape of each layer of the kind that the method changes."""
    from torch import nn

    kinds = {"linear": nn.Linear, "embedding": nn.Embedding}
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        # Norms share no class; they are what has a vector as weight.
        is_norm = isinstance(weight, nn.Parameter) and weight.dim() == 1
        if is_norm if method.targets == "norm" else isinstance(module, kinds[method.targets]):
            yield name, tuple(module.weight.shape)
