"""Suppress expected warnings and progress bars of third-party libraries; errors remain."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

# Warnings of peft and torch about methods that are used as intended.
HARMLESS = (
    "Unsupported layer type",  # LN tuning, for every norm
    "Detected that the base layer has no bias",  # BEFT, for every layer to which it adds one
    "Failed to load the CUDA extension",  # BOFT, which spectra uses without
    "Setting boft_n_butterfly_factor to 1",  # the same
    "Sparse invariant checks are implicitly disabled",  # SHiRA, for torch's sparse tensors
)


@contextmanager
def harmless_ignored() -> Iterator[None]:
    """Ignore the warnings of :data:`HARMLESS`."""
    with warnings.catch_warnings():
        for message in HARMLESS:
            warnings.filterwarnings("ignore", message)
        yield


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Silence progress bars and log messages of the libraries during training."""
    import datasets
    import transformers

    logs = transformers.utils.logging
    level, bars = logs.get_verbosity(), logs.is_progress_bar_enabled()
    data_bars = datasets.is_progress_bar_enabled()
    logs.set_verbosity_error()
    logs.disable_progress_bar()
    datasets.disable_progress_bars()
    try:
        with harmless_ignored():
            yield
    finally:
        logs.set_verbosity(level)
        if bars:
            logs.enable_progress_bar()
        if data_bars:
            datasets.enable_progress_bars()
