"""Quantised bases: recognised by name or by content, refused with the full-precision base to give.

ΔW is measured against the singular spectrum of W itself. Packed integers are not W, and what they unpack to depends on
the library that does it. An adapter that was trained on a quantised base is analysed on the base it was made from.
"""

import re
from pathlib import Path

from spectra.errors import BaseModelError, CorruptFileError
from spectra.runs.atomic import read_json
from spectra.runs.layout import MODEL_CONFIG
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
    directory = base.where if base.where.is_dir() else base.where.parent
    method = _quantised_by(directory, base)
    if method is None:
        return
    known = full_precision_name(_name_of(directory))
    raise BaseModelError(
        f"its weights are quantized ({method}), and ΔW is measured against the weights themselves",
        where=directory,
        hint=f"give the full-precision model that it was made from with --base{f', likely {known}' if known else ''}",
    )


def _quantised_by(directory: Path, base: TensorStore) -> str | None:
    config = directory / MODEL_CONFIG
    try:
        settings = read_json(config).get("quantization_config") if config.exists() else None
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
