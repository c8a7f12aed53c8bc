"""Rows of a Hugging Face dataset, from the hub or a local directory; no code of the dataset is run."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from spectra.errors import MissingDependencyError, RecipeError
from spectra.training.data.sources.source import Row, Source, batched

_BATCH = 10_000


def rows(source: Source) -> Iterator[Row]:
    """Return the rows of a dataset, only with the needed columns.

    Raises
    ------
    MissingDependencyError
        If ``datasets`` is not installed.
    RecipeError
        If it is not found, or has no such subset, split or revision.
    """
    dataset = _load(source)
    present = [name for name in source.columns if name in dataset.column_names]
    table = dataset.select_columns(present) if present else dataset
    return batched(batch.to_pylist() for batch in table.with_format("arrow").iter(batch_size=_BATCH))


def _load(source: Source) -> Any:
    try:
        import datasets
    except ImportError as error:
        hint = "pip install 'spectra-rlvr[train]'"
        raise MissingDependencyError(f"{source.name} needs the datasets package", hint=hint) from error
    from huggingface_hub.errors import HfHubHTTPError

    local = Path(source.name).expanduser()
    if not local.is_dir() and not _is_hub_id(source.name):
        raise _absent(source, "no such file or directory")
    name = str(local) if local.is_dir() else source.name
    try:
        # Since version 4, datasets never runs a dataset's script, so there is no option to set.
        with _no_bars(datasets):
            return datasets.load_dataset(name, source.subset, split=source.split, revision=source.revision)
    except (OSError, ValueError, RuntimeError, HfHubHTTPError, datasets.exceptions.DatasetsError) as error:
        raise _absent(source, str(error).partition("\n")[0]) from error


@contextmanager
def _no_bars(datasets: Any) -> Iterator[None]:
    shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()


def _is_hub_id(name: str) -> bool:
    return not name.startswith((".", "~", "/")) and name.count("/") == 1 and not name.endswith("/")


def _absent(source: Source, why: str) -> RecipeError:
    part = f" ({source.subset or 'default'}, {source.split})"
    hint = "give a .jsonl or .parquet file, a directory of data, or the id of a hub dataset that is accessible"
    return RecipeError(f"cannot be read as a dataset{part}: {why}", where=source.name, hint=hint)
