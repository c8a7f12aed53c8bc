"""ΔW of methods that make their factors, or choose their entries, from the base weight W.

- DEFT: Q(s·R − PᵀW), with Q = P' and P = relu(P') of the trained P', or both its orthonormal basis; without R where
  ``para`` is set.
- PEANuT: s·B·h(Wᵀ)ᵀ, h a small network that reads W row by row (Zhong et al. 2024, arXiv 2410.01870). The network is
  nonlinear in W and not in the input, so the update is one matrix, of rank r at most.
- Super-tuning: numbers added to the entries of W that are largest (or smallest), and LoRA's s·BA where r is set
  (arXiv 2607.09287).
"""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from spectra.errors import CorruptFileError, UnsupportedMethodError
from spectra.linalg.operators.basic import Dense, LowRank, Operator, Sum
from spectra.weights.readers.adapter import Adapter, Changes, Reader, per_module, require_shape
from spectra.weights.readers.offset import Start
from spectra.weights.readers.oriented import oriented
from spectra.weights.storage.tensors import TensorStore

# The names that transformers gives to these functions.
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


def _peanut_changes(adapter: Adapter, start: Start | None, base: TensorStore) -> Changes:
    name = adapter.config["act_fn"]
    if name not in _ACTIVATIONS:
        raise UnsupportedMethodError(
            f"the adapter sets act_fn={name!r}, which spectra does not compute",
            where=adapter.path,
            hint=f"computed: {', '.join(_ACTIVATIONS)}; or merge it in float32 and analyse the full checkpoint",
        )
    return per_module(_peanut)(adapter, start, base)


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


def _super_changes(adapter: Adapter, start: Start | None, base: TensorStore) -> Changes:
    return Changes({module: partial(_super, adapter, base, module) for module in adapter.parts})


def _super(adapter: Adapter, base: TensorStore, module: str, weight: Tensor) -> Operator:
    values, parts = adapter.tensor(module, "supertuning_values").to(weight), adapter.parts[module]
    if "supertuning_indices" in parts:
        indices = adapter.tensor(module, "supertuning_indices").to(torch.int64)
    else:
        indices = _support(adapter, module, base[f"{module}.weight"].abs().flatten(), len(values))
    if len(indices) and int(indices.max()) >= weight.numel():
        raise CorruptFileError(
            f"{module}: its entries lie outside the base weight, {weight.shape[0]} × {weight.shape[1]}",
            where=adapter.path,
            hint="give the base that the adapter was trained on with --base",
        )
    # Indices are distinct, but a file may repeat one, and peft then adds.
    sparse = Dense(
        torch.zeros_like(weight).flatten().scatter_add(0, indices.to(weight.device), values).reshape(weight.shape)
    )
    if "supertuning_lora_A" not in parts:
        return sparse
    a, b = (
        adapter.tensor(module, "supertuning_lora_A").to(weight),
        adapter.tensor(module, "supertuning_lora_B").to(weight),
    )
    require_shape(adapter, module, weight, (b.shape[0], a.shape[1]))
    return Sum(sparse, LowRank(b, a, float(adapter.config["lora_alpha"]) / len(a)))


def _support(adapter: Adapter, module: str, sizes: Tensor, count: int) -> Tensor:
    """Return the entries that peft chooses when the file does not list them, in its order.

    Of two entries of one size the order is the device's, and with it which number belongs to which: refused.
    """
    largest = bool(adapter.config["select_top"])
    chosen, indices = torch.topk(sizes, min(count + 1, len(sizes)), largest=largest)
    if bool((chosen[1:] == chosen[:-1]).any()):
        raise UnsupportedMethodError(
            f"{module}: save_precomputed_indices is off and chosen entries of the base have equal sizes, so which "
            "number belongs to which entry depended on the device",
            where=adapter.path,
            hint="load it with peft where it was trained and save it again with save_precomputed_indices=True",
        )
    return indices[:count]


READERS = {
    "DEFT": Reader(("deft_P", "deft_R"), lambda config: "deft", per_module(_deft)),
    "PEANUT": Reader(
        ("peanut_A", "peanut_B", "peanut_encoders", "peanut_decoders"), lambda config: "peanut", _peanut_changes
    ),
    "SUPERTUNING": Reader(
        ("supertuning_values", "supertuning_indices", "supertuning_lora_A", "supertuning_lora_B"),
        lambda config: "supertuning",
        _super_changes,
    ),
}
