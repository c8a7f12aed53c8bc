"""Target layers of a method in the base model, checked before training."""

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
        The base model.
    method
        The method.
    recipe
        The method's section.

    Raises
    ------
    RecipeError
        If a target module is not in the base model, or its shape does not fit the method.
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
            fault = f"the base model has no {method.targets} module {target!r}"
            raise RecipeError(fault, where="method.target_modules", hint=f"choose among {', '.join(names)}")
    shapes = {name: shape for name, shape in layers.items() if is_target(name, targets)}
    for rule in method.rules:
        rule(recipe, shapes)
    return shapes


def _layers(model: Any, method: Method) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the name and weight shape of each layer of the type that the method changes."""
    from torch import nn

    kinds = {"linear": nn.Linear, "embedding": nn.Embedding}
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        # Norms have no common class; they are recognized by their one-dimensional weight.
        is_norm = isinstance(weight, nn.Parameter) and weight.dim() == 1
        if is_norm if method.targets == "norm" else isinstance(module, kinds[method.targets]):
            yield name, tuple(module.weight.shape)
