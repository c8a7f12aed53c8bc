"""Where a run's frozen weights came from: what initialisation took out of the base before training.

PiSSA and its relatives freeze W − s·B₀A₀ and train B, A from B₀, A₀. The update is then ΔW = s·BA − s·B₀A₀, against
the original base W. A ``Start`` knows s·B₀A₀; ``spectra.weights.initialization.find`` finds it.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float64
from torch import Tensor

from spectra.linalg.operators.basic import Difference, Operator


@dataclass(frozen=True, eq=False)
class Start(ABC):
    """What initialisation took out of the base.

    Small, so that it can be sent to another process: tensors are read when asked for.

    Attributes
    ----------
    origin
        Where it was found, in words.
    """

    origin: str

    @property
    @abstractmethod
    def files(self) -> tuple[Path, ...]:
        """The files that it depends on, beside the adapter and the base; their contents belong into a cache key."""

    @abstractmethod
    def removed(self, module: str, weight: Float64[Tensor, "o i"]) -> Operator:
        """Return what initialisation took out of a base weight: s·B₀A₀.

        Raises
        ------
        MissingInitialError
            If it is not known for this module.
        """

    def subtract(self, module: str, weight: Float64[Tensor, "o i"], moved: Operator) -> Operator:
        """Return ΔW before magnitudes, ``moved`` being s·BA: s·BA − s·B₀A₀.

        Raises
        ------
        MissingInitialError
            If it is not known for this module, or not well enough for an update of this size.
        """
        return Difference(moved, self.removed(module, weight))
