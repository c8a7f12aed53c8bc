"""Quantised bases: recognised by name or by content, refused with the full-precision base to give.

ΔW is measured against the singular spectrum of W itself. Packed integers are not W, and what they unpack to depends on
the library that does it. An adapter that was trained on a quantised base is analysed on the base it was made from.
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
# Tensors that only quantised checkpoints hold: GPTQ and AWQ, bitsandbytes in 4 and 8 bits, compressed-tensors, HQQ.
_PACKED = ("qweight", "weight.absmax", "SCB", "weight_packed", "W_q")


def full_precision_name(name: str) -> str | None:
    """Return what a quantised model's name says it was made from, None where the name says nothing of the kind.

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
    """Check that a base's weights are numbers, and not codes of them.

    Raises
    ------
    BaseModelError
        If they are quantised; names the base to give where its own name says it.
    """
    method = _quantised_by(base)
    if method is None:
        return
    known = full_precision_name(_name_of(base.directory))
    raise BaseModelError(
        f"its weights are quantized ({method}), and ΔW is measured against the weights themselves",
        where=base.directory,
        hint=f"give the full-precision model that it was made from with --base{f', likely {known}' if known else ''}",
    )


def _quantised_by(base: TensorStore) -> str | None:
    try:
        settings = base.config.get("quantization_config")
    except CorruptFileError:  # the tensors decide
        settings = None
    if settings:
        return str(settings.get("quant_method", "method unknown") if isinstance(settings, dict) else settings)
    packed = next((name for name in base if name.endswith(_PACKED)), None)
    return None if packed is None else f"it holds {packed}"


def _name_of(directory: Path) -> str:
    """Return the hub id of a cached snapshot (``models--org--name/snapshots/…``), or the directory's name."""
    cached = next((part for part in reversed(directory.parts) if part.startswith("models--")), None)
    return directory.name if cached is None else cached.removeprefix("models--").replace("--", "/")
