"""Loggers besides ``metrics.jsonl``: tensorboard, wandb, trackio."""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from spectra.errors import MissingDependencyError


def check_reports(names: Sequence[str]) -> None:
    """Check that the packages of the recipe's loggers are installed.

    Raises
    ------
    MissingDependencyError
        If one is not installed.
    """
    for name in names:
        if find_spec(name) is None:
            raise MissingDependencyError(f"{name} is not installed", where="report_to", hint=f"pip install {name}")


def report_last(trainer: Any, names: Sequence[str]) -> None:
    """Move logger callbacks to the end, so that they log what other callbacks add to a record."""
    from transformers.integrations import get_reporting_integration_callbacks

    for kind in get_reporting_integration_callbacks(list(names)):
        trainer.add_callback(trainer.pop_callback(kind))
