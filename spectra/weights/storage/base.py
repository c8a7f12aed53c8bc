"""Find base models and fingerprint their weights."""

from pathlib import Path

from spectra.errors import BaseModelError
from spectra.runs.layout import MODEL_CONFIG
from spectra.weights.storage.quantized import full_precision_name
from spectra.weights.storage.tensors import TensorStore, digest

EMBEDDED = "embedded"
_GIVE = "pass it with --base DIR_OR_HUB_ID"


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
        If there is no such directory and the model cannot be downloaded from the hub (or there is no network).
    """
    if name == EMBEDDED:
        return Path(__file__).parents[1] / EMBEDDED
    local = Path(name).expanduser()
    if local.is_dir():
        if not (local / MODEL_CONFIG).exists():
            raise BaseModelError(f"contains no {MODEL_CONFIG}", where=local, hint="pass a Hugging Face model directory")
        return local
    if local.is_absolute() or name.startswith((".", "~")) or name.count("/") != 1:
        raise BaseModelError("no such base model directory", where=name, hint="pass a directory or a hub id to --base")
    return _from_hub(name, revision)


def find_base(path: Path, name: object, revision: str | None = None, given: str | None = None) -> Path:
    """Return the directory of the base that a run or an adapter was trained on.

    Parameters
    ----------
    path
        The run or the adapter. A relative directory name is searched in the working directory, in ``path`` and in its
        parent.
    name
        Name of the base in its files; anything but a string is refused.
    revision
        Commit, tag or branch, if the name is a hub id.
    given
        Base that the user names instead, in the form that :func:`resolve_base` accepts.

    Raises
    ------
    BaseModelError
        If no base is named, or it cannot be loaded, or the name is that of a quantized model without a local directory.
    """
    if given is not None:
        return resolve_base(given)
    if name is None:
        raise BaseModelError("does not name the base model it was trained on", where=path, hint=_GIVE)
    if not isinstance(name, str):
        raise BaseModelError(f"the name of its base model must be a string, got {name!r}", where=path, hint=_GIVE)
    candidates = (Path(name), path / name, path.parent / name)
    found = next((candidate for candidate in candidates if candidate.is_dir()), None)
    full = full_precision_name(name)
    if full is not None and found is None:
        raise BaseModelError(
            f"was trained on the quantized {name!r}, but ΔW is measured against full-precision weights",
            where=path,
            hint=f"pass the full-precision base, likely --base {full}",
        )
    try:
        return resolve_base(name if found is None else str(found), revision)
    except BaseModelError as error:
        raise BaseModelError(
            f"its base model {name!r} could not be loaded ({error.what})", where=path, hint=_GIVE
        ) from error


def _from_hub(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=["*.json", "*.safetensors", "*.jinja"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise BaseModelError(
            f"this base model could not be downloaded from the hub ({type(error).__name__})",
            where=name,
            hint="pass a local directory with it to --base",
        ) from error


def fingerprint(base: Path | TensorStore) -> dict[str, str]:
    """Return the digest of every tensor of a base model as stored, by parameter name.

    Parameters
    ----------
    base
        The model, or its directory.
    """
    store = (base if isinstance(base, TensorStore) else TensorStore.open_model(base)).as_stored()
    return {name: digest(store[name]) for name in sorted(store)}
