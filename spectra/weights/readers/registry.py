"""The readers of all adapters: one entry per ``peft_type`` that can be read or, as AdaMSS, looked into."""

from collections.abc import Mapping

from spectra.weights.readers.adapter import Reader
from spectra.weights.readers.families import (
    adalora,
    base_conditioned,
    blocks,
    frod,
    kronecker,
    lora,
    rotations,
    scalings,
    shared_projections,
    singular,
    sparse,
    tokens,
    vectors,
)

_FAMILIES = (
    lora,
    adalora,
    kronecker,
    blocks,
    shared_projections,
    sparse,
    rotations,
    scalings,
    singular,
    frod,
    base_conditioned,
    vectors,
    tokens,
)

READERS: Mapping[str, Reader] = {kind: reader for family in _FAMILIES for kind, reader in family.READERS.items()}
