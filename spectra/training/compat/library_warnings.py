"""Silence for what the libraries say of a run that is as it should be; errors stay."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

# What peft and torch warn of where a method is used as it is meant to be.
HARMLESS = (
    "Unsupported layer type",  # LN tuning, of every norm
    "Detected that the base layer has no bias",  # BEFT, of every layer that it gives one
    "Failed to load the CUDA extension",  # BOFT, which spectra uses without
    "Setting boft_n_butterfly_factor to 1",  # the same
    "Sparse invariant checks are implicitly disabled",  # SHiRA, of torch's sparse tensors
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
    """Silence the libraries' own bars and notes while a run trains."""
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
