"""Placeholder until P4 writes it."""

import pandas as pd

from spectra.runs.tables import Tables, empty


def summarise(tables: Tables) -> pd.DataFrame:
    """Return no row yet."""
    return empty("summary")
