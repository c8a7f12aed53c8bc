"""Methods that train vectors only: norms and biases.

- LN tuning: new minus old norm weights; no matrix. Zhao et al. 2023, arXiv 2312.11420.
- BEFT: an addition to biases; no matrix. arXiv 2509.15974.
"""

from collections.abc import Iterable
from functools import partial

from torch import Tensor

from spectra.errors import CorruptFileError, UnsupportedMethodError
from spectra.linalg.operators.basic import Dense, Operator
from spectra.weights.readers.adapter import Adapter, Changes, Reader, require_shape
from spectra.weights.readers.offset import InitialOffset
from spectra.weights.storage.tensors import TensorStore


def biased(modules: Iterable[str], base: TensorStore) -> list[str]:
    """Return the modules with a bias in the base."""
    return [module for module in modules if f"{module}.bias" in base.files]


def flat(adapter: Adapter, module: str, part: str, like: Tensor) -> Tensor:
    """Return a part of a module as a vector with the shape of a base vector.

    Raises
    ------
    CorruptFileError
        If its length differs.
    """
    vector = adapter.tensor(module, part).to(like).flatten()
    if vector.shape != like.shape:
        raise CorruptFileError(
            f"{module}: {part} has {len(vector)} numbers, the base {like.numel()}",
            where=adapter.path,
            hint="pass the base model that the adapter was trained on with --base",
        )
    return vector


def _norm_changes(adapter: Adapter, offset: InitialOffset | None, base: TensorStore) -> Changes:
    matrices, vectors = {}, {}
    for module, parts in adapter.parts.items():
        if len(base.shapes.get(f"{module}.weight", ())) == 2:
            matrices[module] = partial(_new_matrix, adapter, module, f"{module}.weight" in base.transposed)
        else:
            vectors[module] = partial(_new_vector, adapter, module, "ln_tuning_layers")
        if "ln_tuning_layers.bias" in parts:
            vectors[f"{module}.bias"] = partial(_new_vector, adapter, module, "ln_tuning_layers.bias")
    return Changes(matrices, vectors)


def _new_matrix(adapter: Adapter, module: str, transposed: bool, weight: Tensor) -> Operator:
    new = adapter.tensor(module, "ln_tuning_layers").to(weight)
    new = new.T if transposed else new
    require_shape(adapter, module, weight, (new.shape[0], new.shape[1]))
    return Dense(new - weight)


def _new_vector(adapter: Adapter, module: str, part: str, old: Tensor) -> Tensor:
    return flat(adapter, module, part, old) - old


def _bias_changes(adapter: Adapter, offset: InitialOffset | None, base: TensorStore) -> Changes:
    found = biased(adapter.parts, base)
    if not found:
        raise UnsupportedMethodError(
            "BEFT adds to biases, but the base has none in these modules: no parameter of the base changes",
            where=adapter.path,
        )
    return Changes(
        {},
        {f"{module}.bias": partial(_added_bias, adapter, module) for module in found},
        {f"{module}.bias": "the base has no such bias to add to" for module in adapter.parts if module not in found},
    )


def _added_bias(adapter: Adapter, module: str, bias: Tensor) -> Tensor:
    return flat(adapter, module, "beft_bias", bias)


READERS = {
    "LN_TUNING": Reader(parts=("ln_tuning_layers", "ln_tuning_layers.bias"), changes=_norm_changes),
    "BEFT": Reader(parts=("beft_bias",), changes=_bias_changes),
}
