"""Base weights: where they are, and whether they are the ones that an update was made on."""

from pathlib import Path

from spectra.errors import BaseModelError
from spectra.runs.layout import MODEL_CONFIG
from spectra.weights.tensors import TensorStore, digest

EMBEDDED = "embedded"


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
        return Path(__file__).parent / EMBEDDED
    local = Path(name).expanduser()
    if local.is_dir():
        if not (local / MODEL_CONFIG).exists():
            raise BaseModelError(f"holds no {MODEL_CONFIG}", where=local, cure="give a HF model directory")
        return local
    if local.is_absolute() or name.startswith((".", "~")) or name.count("/") != 1:
        raise BaseModelError("no such base model directory", where=name, cure="give --base a directory or a hub id")
    return _from_hub(name, revision)


def _from_hub(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=["*.json", "*.safetensors", "*.jinja"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise BaseModelError(
            f"the hub did not give this base model ({type(error).__name__})",
            where=name,
            cure="give --base a local directory that holds it",
        ) from error


def fingerprint(directory: Path) -> dict[str, str]:
    """Return the digest of every tensor of a base model, by parameter name."""
    store = TensorStore.open_model(directory)
    return {name: digest(store[name]) for name in sorted(store)}
