"""Apply formulas for O × I matrices to base weights of any shape, as :class:`.TensorStore` returns them."""

from functools import wraps

from torch import Tensor

from spectra.errors import UnsupportedMethodError
from spectra.linalg.operators.basic import Operator
from spectra.weights.readers.adapter import Adapter, Formula, require_shape
from spectra.weights.storage.tensors import TensorStore


def oriented(formula: Formula) -> Formula:
    """Return the formula for any base weight; the shape of ΔW is checked.

    A convolution's weight O × I × k… is treated as the matrix O × Ik….

    Raises
    ------
    CorruptFileError
        If the shapes of update and base weight differ.
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
        Its arguments.
    embedding
        Whether the weight is a lookup table whose factors are those of its transpose.
    """
    matrix = weight.flatten(1)
    update = formula(adapter, module, matrix.T if embedding else matrix)
    update = update.T if embedding else update
    require_shape(adapter, module, matrix, update.shape)
    return update


def require_orientation(adapter: Adapter, base: TensorStore) -> None:
    """Check that the base of an adapter of I × O weights has weights stored so.

    peft transposes by the module's class, which only the base's code shows. If its files do not show the orientation
    either (:mod:`spectra.weights.storage.conv1d`), a square ΔW could be mistaken for its transpose.

    Raises
    ------
    UnsupportedMethodError
        If the adapter sets ``fan_in_fan_out`` and no matrix of the base is known to be I × O.
    """
    if adapter.config.get("fan_in_fan_out") and not base.transposed:
        raise UnsupportedMethodError(
            "the adapter sets fan_in_fan_out, and nothing in the base's files shows a matrix stored as "
            "inputs × outputs",
            where=adapter.path,
            hint="pass the base it was trained on with --base, or merge it in float32 and analyze that checkpoint",
        )
