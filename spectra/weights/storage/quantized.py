"""Recognize quantized bases by name or content; the error names the full-precision base to use.

ΔW is compared with the singular spectrum of W itself. Packed integers are not W, and the result of unpacking them
depends on the library. An adapter trained on a quantized base is analyzed on its full-precision original.
"""

import re
from pathlib import Path

from spectra.errors import BaseModelError, CorruptFileError
from spectra.weights.storage.tensors import TensorStore

_SUFFIX = re.compile(
    r"([-_.](unsloth|bnb|[248]-?bits?|int[248]|nf4|fp[48]|mxfp4|w\d+a\d+|gptq|awq|hqq|aqlm|exl2|gguf|quantized|dynamic))+"
    r"([-_.](int[248]|[248]-?bits?|g?\d+g?))*$",
    re.IGNORECASE,
)
# Tensors that only quantized checkpoints contain: GPTQ and AWQ, bitsandbytes in 4 and 8 bits, compressed-tensors, HQQ.
_PACKED = ("qweight", "weight.absmax", "SCB", "weight_packed", "W_q")


def full_precision_name(name: str) -> str | None:
    """Return the name of the full-precision original of a quantized model, from its name; None if not quantized.

    >>> full_precision_name("unsloth/Qwen2.5-7B-Instruct-bnb-4bit")
    'unsloth/Qwen2.5-7B-Instruct'
    >>> full_precision_name("Qwen/Qwen2.5-7B-Instruct-GPTQ-Int4")
    'Qwen/Qwen2.5-7B-Instruct'
    >>> full_precision_name("Qwen/Qwen2.5-7B-Instruct") is None
    True
    """
    stripped = _SUFFIX.sub("", name)
    return stripped if stripped != name else None


def require_full_precision(base: TensorStore) -> None:
    """Check that a base's weights are not quantized.

    Raises
    ------
    BaseModelError
        If they are; names the full-precision base if the name of this one shows it.
    """
    method = _quantized_by(base)
    if method is None:
        return
    known = full_precision_name(_name_of(base.directory))
    raise BaseModelError(
        f"its weights are quantized ({method}), but ΔW is measured against full-precision weights",
        where=base.directory,
        hint=f"pass its full-precision original with --base{f', likely {known}' if known else ''}",
    )


def _quantized_by(base: TensorStore) -> str | None:
    try:
        settings = base.config.get("quantization_config")
    except CorruptFileError:  # the tensors decide
        settings = None
    if settings:
        return str(settings.get("quant_method", "method unknown") if isinstance(settings, dict) else settings)
    packed = next((name for name in base if name.endswith(_PACKED)), None)
    return None if packed is None else f"it contains {packed}"


def _name_of(directory: Path) -> str:
    """Return the hub id of a cached snapshot (``models--org--name/snapshots/…``), or the directory's name."""
    cached = next((part for part in reversed(directory.parts) if part.startswith("models--")), None)
    return directory.name if cached is None else cached.removeprefix("models--").replace("--", "/")
