"""Formulas for O × I matrices, applied to base weights as models store them."""

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

from torch import Tensor

from spectra.linalg.operators import Operator
from spectra.weights.adapters import Adapter, require_shape

# From the adapter, a module's name and its base weight in float64, O × I, to ΔW.
Formula = Callable[[Adapter, str, Tensor], Operator]


def oriented(formula: Formula) -> Formula:
    """Return the formula for stored weights: ΔW has the shape of the stored matrix, which is checked.

    GPT-2's ``Conv1D`` stores I × O (``fan_in_fan_out``): the formula sees the transpose, and ΔW is transposed back.
    A convolution's weight O × I × k… is the matrix O × Ik….

    Raises
    ------
    CorruptFileError
        If the update has another shape than the base weight.
    """

    @wraps(formula)
    def wrapped(adapter: Adapter, module: str, weight: Tensor) -> Operator:
        return apply_oriented(formula, adapter, module, weight, flipped=stored_flipped(adapter.config))

    return wrapped


def apply_oriented(formula: Formula, adapter: Adapter, module: str, weight: Tensor, *, flipped: bool) -> Operator:
    """Return a formula's ΔW for one stored weight, I × O where ``flipped``; see :func:`oriented`."""
    matrix = weight.flatten(1)
    update = formula(adapter, module, matrix.T if flipped else matrix)
    update = update.T if flipped else update
    require_shape(adapter, module, matrix, update.shape)
    return update


def stored_flipped(config: Mapping[str, Any]) -> bool:
    """Return whether the adapted modules store I × O."""
    return bool(config.get("fan_in_fan_out"))
