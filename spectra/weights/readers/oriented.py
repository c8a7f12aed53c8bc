"""Formulas for O × I matrices, applied to base weights as :class:`.TensorStore` gives them."""

from functools import wraps

from torch import Tensor

from spectra.errors import UnsupportedMethodError
from spectra.linalg.operators.basic import Operator
from spectra.weights.readers.adapter import Adapter, Formula, require_shape
from spectra.weights.storage.tensors import TensorStore


def oriented(formula: Formula) -> Formula:
    """Return the formula for any base weight: ΔW has the shape of its matrix, which is checked.

    A convolution's weight O × I × k… is the matrix O × Ik….

    Raises
    ------
    CorruptFileError
        If the update has another shape than the base weight.
    """

    @wraps(formula)
    def wrapped(adapter: Adapter, module: str, weight: Tensor) -> Operator:
        return apply_oriented(formula, adapter, module, weight)

    return wrapped


def apply_oriented(
    formula: Formula, adapter: Adapter, module: str, weight: Tensor, *, embedding: bool = False
) -> Operator:
    """Return a formula's ΔW for one weight; see :func:`oriented`.

    Parameters
    ----------
    formula
        The formula.
    adapter, module, weight
        What it is applied to.
    embedding
        Whether the weight is a lookup table whose factors are those of its transpose.
    """
    matrix = weight.flatten(1)
    update = formula(adapter, module, matrix.T if embedding else matrix)
    update = update.T if embedding else update
    require_shape(adapter, module, matrix, update.shape)
    return update


def require_orientation(adapter: Adapter, base: TensorStore) -> None:
    """Check that an adapter of weights that are stored I × O is put on a base that has such weights.

    peft transposes what it wraps by the module's class, which the base's code has and its files do not: where they do
    not show it either (:mod:`spectra.weights.storage.conv1d`), a square ΔW could be taken for its transpose.

    Raises
    ------
    UnsupportedMethodError
        If the adapter sets ``fan_in_fan_out`` and no matrix of the base is known to be stored so.
    """
    if adapter.config.get("fan_in_fan_out") and not base.transposed:
        raise UnsupportedMethodError(
            "the adapter sets fan_in_fan_out, and nothing in the base's files says that it stores a matrix "
            "inputs × outputs",
            where=adapter.path,
            hint="give the base that it was trained on with --base, or merge it in float32 and analyse that checkpoint",
        )
