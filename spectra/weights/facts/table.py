"""Table of all methods, and lookups by name, peft type and configuration."""

from collections.abc import Mapping
from typing import Any

from spectra.weights.facts.adapters import ADAPTERS
from spectra.weights.facts.initializations import find_initialization, initialization_value
from spectra.weights.facts.lora import LORA
from spectra.weights.facts.method import MethodFacts
from spectra.weights.facts.prompts import PROMPTS, ROUTERS

FACTS: Mapping[str, MethodFacts] = {one.name: one for one in (*LORA, *ADAPTERS, *ROUTERS, *PROMPTS)}

# Types with a single method; LORA is not among them.
BY_TYPE: Mapping[str, MethodFacts] = {
    one.peft_type: one for one in FACTS.values() if one.peft_type not in (None, "LORA")
}


def find_facts(name: str) -> MethodFacts | None:
    """Return the facts about a method by name, alias or peft type, in any spelling of case and dashes, or None.

    >>> [one.name for one in map(find_facts, ("LoRA+", "rank-1", "LN_TUNING")) if one is not None]
    ['lora_plus', 'rank1', 'layernorm']
    """
    return _BY_SPELLING.get(plain(name))


def adapter_label(config: Mapping[str, Any]) -> str:
    """Return the name of an adapter of a known type in the column ``method`` of the tables, from its configuration.

    >>> adapter_label({"peft_type": "LORA", "use_dora": True, "init_lora_weights": "pissa_niter_4"})
    'dora-pissa'
    >>> adapter_label({"peft_type": "TRAINABLE_TOKENS"})
    'trainable-tokens'
    """
    kind = str(config.get("peft_type"))
    if kind != "LORA":
        return BY_TYPE[kind].label
    initialization = find_initialization(initialization_value(config))
    options = [one.name for one in LORA if one.option is not None and config.get(one.option)]
    names = [
        *(name for name in options if name == "dora"),
        None if initialization is None else initialization.label,
        *(name for name in options if name != "dora"),
    ]
    return "-".join(name for name in names if name) or "lora"


def plain(name: str) -> str:
    """Return a normalized name: lower case, ``_`` for ``-`` and ``_plus`` for ``+``.

    >>> plain("MiLoRA+"), plain("LoRA-FA")
    ('milora_plus', 'lora_fa')
    """
    return name.lower().replace("-", "_").replace("+", "_plus")


_BY_SPELLING: Mapping[str, MethodFacts] = {
    **{plain(kind): one for kind, one in BY_TYPE.items()},
    **{plain(spelling): one for one in FACTS.values() for spelling in (one.name, *one.aliases)},
}
