"""ΔW of methods whose factors are functions of the base weight W: DEFT, PEANuT.

- DEFT: Q(s·R − PᵀW), with Q = P' and P = relu(P') of the trained P', or both an orthonormal basis of it; without R if
  ``para`` is set.
- PEANuT: s·B·h(Wᵀ)ᵀ, h a small network applied to W row by row (Zhong et al. 2024, arXiv 2410.01870). The network is
  nonlinear in W and not in the input, so the update is one matrix, of rank r at most.
"""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from spectra.errors import UnsupportedMethodError
from spectra.linalg.operators.basic import LowRank, Operator
from spectra.weights.readers.adapter import Adapter, Changes, Reader, per_module, require_shape
from spectra.weights.readers.offset import InitialOffset
from spectra.weights.readers.oriented import oriented
from spectra.weights.storage.tensors import TensorStore

# Activation functions by their names in transformers.
_ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "relu6": functional.relu6,
    "leaky_relu": functional.leaky_relu,
    "gelu": functional.gelu,
    "gelu_pytorch_tanh": partial(functional.gelu, approximate="tanh"),
    "silu": functional.silu,
    "swish": functional.silu,
    "mish": functional.mish,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "linear": lambda x: x,
}


@oriented
def _deft(adapter: Adapter, module: str, weight: Tensor) -> Operator:
    trained = adapter.tensor(module, "deft_P").to(weight)
    require_shape(adapter, module, weight, (trained.shape[0], None))
    if adapter.config["decomposition_method"] == "qr":
        left = right = torch.linalg.qr(trained)[0]
    else:
        left, right = trained, functional.relu(trained)
    removed = right.T @ weight
    if adapter.config["para"]:
        return LowRank(left, removed, -1.0)
    alpha = adapter.config["alpha"]
    return LowRank(
        left, adapter.tensor(module, "deft_R").to(weight) * (alpha / left.shape[1] if alpha else 1.0) - removed
    )


def _peanut_changes(adapter: Adapter, offset: InitialOffset | None, base: TensorStore) -> Changes:
    name = adapter.config["act_fn"]
    if name not in _ACTIVATIONS:
        raise UnsupportedMethodError(
            f"the adapter sets act_fn={name!r}, which spectra does not compute",
            where=adapter.path,
            hint=f"computed: {', '.join(_ACTIVATIONS)}; or merge it in float32 and analyze the full checkpoint",
        )
    return per_module(_peanut)(adapter, offset, base)


def _peanut(adapter: Adapter, module: str, weight: Tensor) -> Operator:
    def part(name: str) -> Tensor:
        return adapter.tensor(module, name).to(weight)

    activation, depth = _ACTIVATIONS[adapter.config["act_fn"]], int(adapter.config["depth"])
    a, b = part("peanut_A"), part("peanut_B")
    require_shape(adapter, module, weight, (a.shape[1], None))
    hidden = activation(weight.T @ a.T)
    skipped = []
    for level in range(depth):
        skipped.append(hidden)
        hidden = activation(hidden @ part(f"peanut_encoders.{level}").T)
    for level in range(depth):
        hidden = activation(hidden @ part(f"peanut_decoders.{level}").T) + skipped.pop()
    return LowRank(b, hidden.T, float(adapter.config["scaling"]))


READERS = {
    "DEFT": Reader(parts=("deft_P", "deft_R"), changes=per_module(_deft)),
    "PEANUT": Reader(parts=("peanut_A", "peanut_B", "peanut_encoders", "peanut_decoders"), changes=_peanut_changes),
}
