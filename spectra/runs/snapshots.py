"""Snapshots of the weights: recognize a directory's kind, or explain why it is unreadable and how to fix it.

Nothing here reads a tensor or unpickles anything; of a safetensors file only the header is read.
"""

import json
import shlex
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from spectra.errors import CorruptFileError
from spectra.runs.atomic import read_json
from spectra.runs.layout import (
    ADAPTER_CONFIG,
    ADAPTER_PICKLE,
    ADAPTER_WEIGHTS,
    MODEL_CONFIG,
    MODEL_INDEX,
    MODEL_UPDATE,
    MODEL_WEIGHTS,
)

SnapshotKind = Literal["adapter", "full"]
NO_WEIGHTS = "holds neither an adapter nor model weights"

# A file with metadata and no tensors has a few dozen bytes; a longer file has a tensor.
_EMPTY_LIMIT = 1024


@dataclass(frozen=True)
class Snapshot:
    """A saved state of the weights.

    Attributes
    ----------
    step
        Optimizer step.
    path
        Directory that holds it.
    kind
        ``adapter`` for a PEFT adapter, ``full`` for full weights.
    """

    step: int
    path: Path
    kind: SnapshotKind

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """The adapter's ``adapter_config.json``, parsed once; empty for full weights.

        Raises
        ------
        CorruptFileError
            If it cannot be read.
        """
        return read_json(self.path / ADAPTER_CONFIG) if self.kind == "adapter" else {}


@dataclass(frozen=True)
class SnapshotSearch:
    """Result of a search for snapshots.

    Attributes
    ----------
    snapshots
        By step, ascending.
    ignored
        Directories that look like snapshots but are unreadable, with reason and hint.
    base_name
        Base model that the directory names, if the adapter's configuration names none.
    """

    snapshots: tuple[Snapshot, ...] = ()
    ignored: Mapping[str, str] | None = None
    base_name: str | None = None


def snapshot_kind(path: Path) -> SnapshotKind | None:
    """Return the kind of a snapshot directory, or None. An adapter takes precedence: merged weights are rounded."""
    if (path / ADAPTER_CONFIG).exists():
        if (path / ADAPTER_WEIGHTS).exists() and not _is_empty(path / ADAPTER_WEIGHTS):
            return "adapter"
        if (path / ADAPTER_PICKLE).exists():
            return "adapter"
    weights = (MODEL_WEIGHTS, MODEL_INDEX, MODEL_UPDATE)
    if (path / MODEL_CONFIG).exists() and any((path / name).exists() for name in weights):
        return "full"
    return None


def why_unreadable(path: Path) -> str:
    """Return why a directory has no readable weights, with a hint how to fix it."""
    if (path / ADAPTER_WEIGHTS).exists() and _is_empty(path / ADAPTER_WEIGHTS):
        return (
            f"{ADAPTER_WEIGHTS} holds no tensor, as DeepSpeed ZeRO-3 leaves it when the shards are not gathered; save "
            "it again with transformers 5 or later, or take the adapter from the DeepSpeed state with zero_to_fp32.py"
        )
    if any(path.glob("adapter_model-*-of-*.safetensors")):
        return "its adapter is sharded, which peft cannot load either; save it again as one file"
    if (path / MODEL_CONFIG).exists() and any(path.glob("pytorch_model*.bin")):
        return f"its weights are pickled (pytorch_model.bin), which can run code when loaded; {_conversion(path)}"
    if (path / ADAPTER_CONFIG).exists():
        return f"holds {ADAPTER_CONFIG} without {ADAPTER_WEIGHTS}; copy the missing file"
    return NO_WEIGHTS


def collect(
    children: Iterable[Path], parse: Callable[[str], int | None], inside: Callable[[Path], Path] = lambda child: child
) -> SnapshotSearch:
    """Return the snapshots among ``children``, sorted by step, and the unreadable ones.

    Parameters
    ----------
    children
        Candidate directories.
    parse
        Function that returns the step in a directory's name, or None.
    inside
        Function that returns the subdirectory with the weights.

    Raises
    ------
    CorruptFileError
        If two directories have the same step.
    """
    found: dict[int, Snapshot] = {}
    names: dict[int, str] = {}
    ignored: dict[str, str] = {}
    for child in sorted(children):
        step = parse(child.name)
        if step is None or not child.is_dir():
            continue
        if step in names:
            raise CorruptFileError(
                f"{names[step]} and {child.name} are both step {step}", where=child.parent, hint="move one of them away"
            )
        names[step] = child.name
        where = inside(child)
        kind = snapshot_kind(where)
        if kind is None:
            ignored[child.name] = why_unreadable(where)
        else:
            found[step] = Snapshot(step, where, kind)
    return SnapshotSearch(tuple(found[step] for step in sorted(found)), ignored)


def adapter_base(snapshot: Snapshot) -> tuple[str | None, str | None]:
    """Return name and revision of the base model that an adapter names; None if it names none, or for full weights."""
    return snapshot.config.get("base_model_name_or_path") or None, snapshot.config.get("revision") or None


def _is_empty(path: Path) -> bool:
    """Return whether a safetensors file has no tensors. A broken file does not count: reading it later reports it."""
    if path.stat().st_size > _EMPTY_LIMIT:
        return False
    content = path.read_bytes()
    try:
        (length,) = struct.unpack("<Q", content[:8])
        header = json.loads(content[8 : 8 + length])
    except (struct.error, ValueError, OverflowError):
        return False
    return isinstance(header, dict) and not set(header) - {"__metadata__"}


def _conversion(path: Path) -> str:
    where = str(path)
    program = (
        f"from transformers import AutoModelForCausalLM as M; M.from_pretrained({where!r}).save_pretrained({where!r})"
    )
    return f"if you trust it, convert it: python -c {shlex.quote(program)}"
