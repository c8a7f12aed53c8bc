"""Offset s·B₀A₀ that initialization subtracts from the base weights before training.

PiSSA and similar methods freeze W − s·B₀A₀ and train B, A from B₀, A₀. The update against the original base W is then
ΔW = s·BA − s·B₀A₀. An ``InitialOffset`` provides s·B₀A₀; ``spectra.weights.initialization.find`` finds it.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float64
from torch import Tensor

from spectra.linalg.operators.basic import Difference, Operator


@dataclass(frozen=True, eq=False)
class InitialOffset(ABC):
    """Offset that initialization subtracted from the base.

    It is small, so that it can be sent to another process: tensors are read on demand.

    Attributes
    ----------
    origin
        Description of where it was found.
    """

    origin: str

    @property
    @abstractmethod
    def files(self) -> tuple[Path, ...]:
        """Files it depends on besides the adapter and the base; cache keys must include their contents."""

    @abstractmethod
    def removed(self, module: str, weight: Float64[Tensor, "o i"]) -> Operator:
        """Return s·B₀A₀, which initialization subtracted from a base weight.

        Raises
        ------
        MissingInitialError
            If it is not known for this module.
        """

    def subtract(self, module: str, weight: Float64[Tensor, "o i"], moved: Operator) -> Operator:
        """Return ΔW before magnitudes, s·BA − s·B₀A₀; ``moved`` is s·BA.

        Raises
        ------
        MissingInitialError
            If it is not known for this module, or not accurately enough for an update of this size.
        """
        return Difference(moved, self.removed(module, weight))
