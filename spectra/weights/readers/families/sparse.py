"""ΔW of methods that train few coefficients at fixed positions: SHiRA, FourierFT, WaveFT, Super-tuning.

With S the O × I matrix of the trained coefficients, zero elsewhere:

- SHiRA: ΔW = S, positions stored. Bhardwaj et al. 2024, arXiv 2406.13175.
- FourierFT: ΔW = s·Re(ifft2(S)), positions drawn from ``random_loc_seed``. Gao et al. 2024, arXiv 2405.03003.
- WaveFT: ΔW = s·R_O·S·R_Iᵀ with R the one-level synthesis of a wavelet, or ΔW = s·S without ``use_idwt``; positions as
  in FourierFT. Bilican et al. 2025, arXiv 2505.12532.
- Super-tuning: ΔW = S, positions of the largest (or smallest) entries of W, plus LoRA's s·BA if r is set
  (arXiv 2607.09287).

S has nonzero entries in only P rows and Q columns. With its P × Q block S′, ΔW is a product of rank at most P, Q, or
twice that for FourierFT, whose waves each have a cosine and a sine; it stays factored if that is smaller than W.
"""

from functools import partial

import torch
from torch import Tensor

from spectra.errors import CorruptFileError, UnsupportedMethodError
from spectra.linalg.operators.basic import Dense, LowRank, Operator, Sum
from spectra.linalg.operators.kronecker_and_circulant import Placed, block_diagonal, product
from spectra.weights.readers import seeded, wavelets
from spectra.weights.readers.adapter import Adapter, Changes, Reader, per_module, require_shape, updates_by
from spectra.weights.readers.offset import InitialOffset
from spectra.weights.readers.oriented import oriented
from spectra.weights.storage.tensors import TensorStore


@oriented
def _shira(adapter: Adapter, module: str, weight: Tensor) -> Operator:
    # On Windows the indices are stored as float32.
    rows, columns = adapter.tensor(module, "shira_indices").to(weight.device, torch.int64)
    if int(rows.max()) >= weight.shape[0] or int(columns.max()) >= weight.shape[1]:
        raise CorruptFileError(
            f"{module}: changes row {int(rows.max())} and column {int(columns.max())} of a base weight of "
            f"{weight.shape[0]} × {weight.shape[1]}",
            where=adapter.path,
            hint="pass the base model that the adapter was trained on with --base",
        )
    return _placed(rows, columns, adapter.tensor(module, "shira_weight").to(weight), weight)


@oriented
def _fourierft(adapter: Adapter, module: str, weight: Tensor) -> Operator:
    values = adapter.tensor(module, "fourierft_spectrum").to(weight)
    positions = _drawn(adapter, weight, len(values))
    scale = float(adapter.config.get("scaling", 150.0)) / weight.numel()
    rows, columns, block = _compact(*positions, values * scale)
    if 2 * min(block.shape) >= min(weight.shape):
        spectrum = weight.new_zeros(weight.shape).index_put(positions, values * scale)
        return Dense(torch.fft.ifft2(spectrum, norm="forward").real)
    down, across = _waves(rows, weight.shape[0]), _waves(columns, weight.shape[1])
    # Re(e^{i(x + y)}) = cos x cos y − sin x sin y.
    return _three_factors(down, block_diagonal([block, -block]), across)


@oriented
def _waveft(adapter: Adapter, module: str, weight: Tensor) -> Operator:
    values = adapter.tensor(module, "waveft_spectrum").to(weight) * float(adapter.config.get("scaling", 25.0))
    rows, columns = _drawn(adapter, weight, len(values))
    if not adapter.config.get("use_idwt", True):
        return _placed(rows, columns, values, weight)
    low_pass = wavelets.low_pass(str(adapter.config.get("wavelet_family", "db1")), adapter.path)
    padded = [wavelets.padded(size, low_pass) for size in weight.shape]
    rows, columns = (
        position + (size - full) // 2
        for position, size, full in zip((rows, columns), padded, weight.shape, strict=True)
    )
    rows, columns = wavelets.subbands(rows, columns, *padded)
    rows, columns, block = _compact(rows, columns, values)
    down = wavelets.synthesis(rows, weight.shape[0], low_pass)
    across = wavelets.synthesis(columns, weight.shape[1], low_pass)
    return _three_factors(down, block, across)


def _drawn(adapter: Adapter, weight: Tensor, count: int) -> tuple[Tensor, Tensor]:
    rows, columns = seeded.positions(weight.shape[0], weight.shape[1], count, int(adapter.config["random_loc_seed"]))
    return rows.to(weight.device), columns.to(weight.device)


def _placed(rows: Tensor, columns: Tensor, values: Tensor, weight: Tensor) -> Operator:
    rows, columns, block = _compact(rows, columns, values)
    return Placed(Dense(block), (weight.shape[0], weight.shape[1]), rows, columns)


def _compact(rows: Tensor, columns: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the row and column indices that occur, and their block of S."""
    used_rows, at_row = torch.unique(rows, return_inverse=True)
    used_columns, at_column = torch.unique(columns, return_inverse=True)
    block = values.new_zeros(len(used_rows), len(used_columns))
    return used_rows, used_columns, block.index_put((at_row, at_column), values, accumulate=True)


def _waves(frequencies: Tensor, length: int) -> Tensor:
    """Return cosines, then sines, of the frequencies, length × 2P; full turns are removed in integers."""
    turns = torch.arange(length, device=frequencies.device)[:, None] * frequencies % length
    angles = turns.to(torch.float64) * (2 * torch.pi / length)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def _three_factors(down: Tensor, block: Tensor, across: Tensor) -> Operator:
    """Return down·block·acrossᵀ, factored through the block's smaller side."""
    if block.shape[0] <= block.shape[1]:
        return product(down, block @ across.T)
    return product(down @ block, across.T)


def _super_changes(adapter: Adapter, offset: InitialOffset | None, base: TensorStore) -> Changes:
    return Changes(updates_by(partial(_super, base), adapter))


def _super(base: TensorStore, adapter: Adapter, module: str, weight: Tensor) -> Operator:
    values, parts = adapter.tensor(module, "supertuning_values").to(weight), adapter.parts[module]
    if "supertuning_indices" in parts:
        indices = adapter.tensor(module, "supertuning_indices").to(torch.int64)
    else:
        indices = _support(adapter, module, base[f"{module}.weight"].abs().flatten(), len(values))
    if len(indices) and int(indices.max()) >= weight.numel():
        raise CorruptFileError(
            f"{module}: its entries lie outside the base weight, {weight.shape[0]} × {weight.shape[1]}",
            where=adapter.path,
            hint="pass the base model that the adapter was trained on with --base",
        )
    # Indices are normally distinct; if a file repeats one, peft adds the values.
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
    """Return the entries that peft chooses if the file does not list them, in its order.

    For two entries of equal size the order depends on the device, and with it their values: such files are refused.
    """
    largest = bool(adapter.config["select_top"])
    chosen, indices = torch.topk(sizes, min(count + 1, len(sizes)), largest=largest)
    if bool((chosen[1:] == chosen[:-1]).any()):
        raise UnsupportedMethodError(
            f"{module}: save_precomputed_indices is off and chosen entries of the base have equal sizes, so which "
            "value belongs to which entry depended on the device",
            where=adapter.path,
            hint="load it with peft where it was trained and save it again with save_precomputed_indices=True",
        )
    return indices[:count]


READERS = {
    "SHIRA": Reader(parts=("shira_weight", "shira_indices"), changes=per_module(_shira)),
    "FOURIERFT": Reader(parts=("fourierft_spectrum",), changes=per_module(_fourierft)),
    "WAVEFT": Reader(parts=("waveft_spectrum",), changes=per_module(_waveft)),
    "SUPERTUNING": Reader(
        parts=("supertuning_values", "supertuning_indices", "supertuning_lora_A", "supertuning_lora_B"),
        changes=_super_changes,
    ),
}
