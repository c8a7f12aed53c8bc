"""What did fine-tuning do to the weights, and is it healthy.

Nothing heavy is imported until it is asked for: what stands in ``__all__`` loads on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from spectra import figures as figures
    from spectra.api import Run as Run
    from spectra.api import open as open
    from spectra.training.monitor.callback import SpectraCallback as SpectraCallback

__all__ = ["Run", "SpectraCallback", "__version__", "figures", "open"]

_LAZY = {"open": "spectra.api", "Run": "spectra.api", "SpectraCallback": "spectra.training.monitor.callback"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    if name == "figures":
        return import_module("spectra.figures")
    raise AttributeError(f"module 'spectra' has no attribute {name!r}")
