"""Base weights: where they are, and whether they are the ones that an update was made on."""

from pathlib import Path

from spectra.errors import BaseModelError
from spectra.runs.layout import MODEL_CONFIG
from spectra.weights.storage.quantized import full_precision_name
from spectra.weights.storage.tensors import TensorStore, digest

EMBEDDED = "embedded"
_GIVE = "give it with --base DIR_OR_HUB_ID"


def resolve_base(name: str, revision: str | None = None) -> Path:
    """Return the directory of a base model.

    Parameters
    ----------
    name
        ``embedded`` for the model that ships with spectra, a local directory, or a hub id.
    revision
        Commit, tag or branch of a hub id.

    Raises
    ------
    BaseModelError
        If there is no such directory, and the hub does not give the model (or there is no network).
    """
    if name == EMBEDDED:
        return Path(__file__).parents[1] / EMBEDDED
    local = Path(name).expanduser()
    if local.is_dir():
        if not (local / MODEL_CONFIG).exists():
            raise BaseModelError(f"holds no {MODEL_CONFIG}", where=local, hint="give a HF model directory")
        return local
    if local.is_absolute() or name.startswith((".", "~")) or name.count("/") != 1:
        raise BaseModelError("no such base model directory", where=name, hint="give --base a directory or a hub id")
    return _from_hub(name, revision)


def find_base(path: Path, name: object, revision: str | None = None, given: str | None = None) -> Path:
    """Return the directory of the base that a run or an adapter was trained on.

    Parameters
    ----------
    path
        The run or the adapter. A relative name of a directory is looked for in the working directory, in ``path`` and
        beside it.
    name
        The base as its files name it; what is no text is refused.
    revision
        Commit, tag or branch, where the name is a hub id.
    given
        The base that the user names instead, as :func:`resolve_base` takes it.

    Raises
    ------
    BaseModelError
        If no base is named, or it cannot be had, or its name is that of a quantised model that is no directory here.
    """
    if given is not None:
        return resolve_base(given)
    if name is None:
        raise BaseModelError("does not say which base it was trained on", where=path, hint=_GIVE)
    if not isinstance(name, str):
        raise BaseModelError(f"names the base {name!r}", where=path, hint=_GIVE)
    places = (Path(name), path / name, path.parent / name)
    found = next((place for place in places if place.is_dir()), None)
    full = full_precision_name(name)
    if full is not None and found is None:
        raise BaseModelError(
            f"was trained on the quantised {name!r}, and ΔW is measured against full-precision weights",
            where=path,
            hint=f"give the full-precision base, likely --base {full}",
        )
    try:
        return resolve_base(name if found is None else str(found), revision)
    except BaseModelError as error:
        raise BaseModelError(f"its base {name!r} cannot be had ({error.what})", where=path, hint=_GIVE) from error


def _from_hub(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=["*.json", "*.safetensors", "*.jinja"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise BaseModelError(
            f"the hub did not give this base model ({type(error).__name__})",
            where=name,
            hint="give --base a local directory that holds it",
        ) from error


def fingerprint(base: Path | TensorStore) -> dict[str, str]:
    """Return the digest of every tensor of a base model as it is stored, by parameter name.

    Parameters
    ----------
    base
        The model, or its directory.
    """
    store = (base if isinstance(base, TensorStore) else TensorStore.open_model(base)).as_stored()
    return {name: digest(store[name]) for name in sorted(store)}
