"""Table of all methods. A new method is a new entry here; no other code depends on method names."""

from collections.abc import Mapping

from spectra.config import KeyFault, nearest
from spectra.training.methods.families import (
    adalora,
    base_conditioned,
    blocks,
    frod,
    full,
    kronecker,
    lora,
    networks,
    rotations,
    scalings,
    shared_projections,
    singular,
    sparse,
    tokens,
    vectors,
)
from spectra.training.methods.method import Method
from spectra.weights.facts import FACTS, find_facts

# The methods of the study first, in its order; then the others.
_STUDY = (
    *("full", "lora", "rank1", "rslora", "dora", "adalora", "miss", "pissa", "milora", "milora_plus"),
    *("lora_plus", "lora_fa", "vera", "layernorm", "ia3"),
)
_FAMILIES = (
    full,
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
    networks,
)
_ALL: Mapping[str, Method] = {method.name: method for family in _FAMILIES for method in family.METHODS}

STUDY: tuple[Method, ...] = tuple(_ALL[name] for name in _STUDY)
METHODS: tuple[Method, ...] = (*STUDY, *(method for name, method in _ALL.items() if name not in _STUDY))

_BY_NAME: Mapping[str, Method] = {name: method for method in METHODS for name in (method.name, *method.facts.aliases)}

# Methods of peft that spectra does not train, with the reason.
LEFT_OUT: Mapping[str, str] = {name: one.not_trained for name, one in FACTS.items() if one.not_trained is not None}


def find_method(name: str) -> Method:
    """Return the method of that name or alias.

    Raises
    ------
    KeyFault
        If there is none; the error names the nearest one, or why it is not trained.
    """
    method, facts = _BY_NAME.get(name), find_facts(name)
    if method is None and facts is not None and facts.not_trained is not None:
        raise KeyFault("name", f"{name!r} is not trained: {facts.not_trained}")
    if method is None:
        near = nearest(name, list(_BY_NAME))
        hint = f"choose one of {', '.join(m.name for m in METHODS)}" if near is None else f"did you mean {near!r}?"
        raise KeyFault("name", f"no method {name!r}; {hint}")
    return method
