"""Facts about LoRA initializations: which move the base, which can be computed from it, and how peft loads them.

Taken from peft 0.21 (``tuners/lora/layer.py``, ``utils/loftq_utils.py``) and checked against it by the tests.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Initialization:
    """One initialization.

    Attributes
    ----------
    name
        Value of ``init_lora_weights`` in lower case; its prefix for a family.
    label
        Name in the tables; None if the tables do not mention it.
    moves_base
        Whether the frozen weight becomes W − s·B₀A₀.
    part
        The part of W that equals s·B₀A₀, if W alone determines it: its first or last r singular triplets, or s times
        its projection onto the span of its first r columns.
    why_unknown
        Why s·B₀A₀ cannot be computed from W alone, for an initialization that moves the base.
    on_load
        Effect of ``PeftModel.from_pretrained`` on the original base: it repeats the initialization with the same result
        or another draw; it leaves the base unchanged; or it refuses.
    is_family
        Whether ``name`` is only a prefix of the value.
    quantizes
        Whether the frozen weights are quantized, and therefore not W − s·B₀A₀.
    """

    name: str
    label: str | None = None
    moves_base: bool = False
    part: Literal["first_triplets", "last_triplets", "first_columns"] | None = None
    why_unknown: str | None = None
    on_load: Literal["same", "redrawn", "unmoved", "refused"] = "unmoved"
    is_family: bool = False
    quantizes: bool = False

    def matches(self, value: str) -> bool:
        """Return whether a value of ``init_lora_weights``, in lower case, means this initialization."""
        return value.startswith(self.name) if self.is_family else value == self.name


# A longer prefix comes before its own prefix. Initializations that never move the base are "unmoved".
INITIALIZATIONS = (
    Initialization("true"),
    Initialization("false"),
    Initialization("gaussian"),
    Initialization("orthogonal"),  # BA = 0 with neither factor zero
    Initialization("eva", "eva"),
    Initialization("mica", "mica"),  # B follows from W, and A is 0
    Initialization(
        "pissa_niter_",
        "pissa",
        moves_base=True,
        why_unknown="its SVD is randomized and unseeded",
        on_load="redrawn",
        is_family=True,
    ),
    Initialization("pissa", "pissa", moves_base=True, part="first_triplets", on_load="same"),
    Initialization("olora", "olora", moves_base=True, part="first_columns", on_load="same"),
    Initialization(
        "corda",
        "corda",
        moves_base=True,
        why_unknown="it comes from data that the adapter does not hold",
        on_load="refused",
        is_family=True,
    ),
    Initialization(
        "loftq", "loftq", moves_base=True, why_unknown="the base was quantized", on_load="same", quantizes=True
    ),
    Initialization(
        "lora_ga",
        "lora-ga",
        moves_base=True,
        why_unknown="it comes from gradients that the adapter does not hold",
    ),
)
# Not in peft: scripts compute it and save ``true``.
MILORA = Initialization("milora", "milora", moves_base=True, part="last_triplets")


def initialization_value(config: Mapping[str, Any]) -> str:
    """Return ``init_lora_weights`` of a LoRA configuration in lower case; peft's default is ``true``.

    >>> initialization_value({}), initialization_value({"init_lora_weights": "OLoRA"})
    ('true', 'olora')
    """
    value = config.get("init_lora_weights", True)
    return str(bool(value) if value is None else value).lower()


def find_initialization(value: str) -> Initialization | None:
    """Return the initialization that a value of ``init_lora_weights`` in lower case means; None if it is not known."""
    return next((one for one in INITIALIZATIONS if one.matches(value)), None)
