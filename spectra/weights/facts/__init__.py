"""Table of facts about methods: names, how to recognize their adapters, and their ΔW.

Training, the readers of adapters and the doctor use it. Importing it needs neither torch nor peft.
"""

from spectra.weights.facts.initializations import (
    INITIALIZATIONS,
    MILORA,
    Initialization,
    find_initialization,
    initialization_value,
)
from spectra.weights.facts.method import Family, MethodFacts
from spectra.weights.facts.table import BY_TYPE, FACTS, adapter_label, find_facts, plain

__all__ = [
    "BY_TYPE",
    "FACTS",
    "INITIALIZATIONS",
    "MILORA",
    "Family",
    "Initialization",
    "MethodFacts",
    "adapter_label",
    "find_facts",
    "find_initialization",
    "initialization_value",
    "plain",
]
