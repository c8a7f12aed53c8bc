"""The manifest of a run: versions, base model, method, seed, hardware."""

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from spectra.errors import CorruptFileError
from spectra.runs.atomic import read_json, write_json
from spectra.runs.layout import SCHEMA_VERSION

_PACKAGES = (
    "spectra-rlvr",
    "torch",
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "safetensors",
    "numpy",
    "math-verify",
)


@dataclass(frozen=True)
class BaseIdentity:
    """Identity of the base weights of a run.

    Attributes
    ----------
    name
        ``embedded``, a hub id, or a directory.
    revision
        Commit of a hub id.
    fingerprints
        Digest of every base tensor, by parameter name: ``spectra.weights.storage.tensors.digest``.
    """

    name: str
    revision: str | None
    fingerprints: Mapping[str, str]


@dataclass(frozen=True)
class Manifest:
    """Facts about a run that its tensors do not contain.

    Attributes
    ----------
    created
        Time at which the run began, ISO format, UTC.
    versions
        Version of each package that affects the result.
    git
        Commit and whether the tree was dirty; None outside a repository.
    base
        The base weights.
    method, algorithm
        Names as in the recipe.
    seed
        Seed of the run.
    hardware
        Machine, cores, device.
    trainable
        Shape of each trainable parameter, by name.
    resumed
        For each resumption with a changed recipe: ``step``, and ``changed``, old and new value by key.
    """

    created: str
    versions: Mapping[str, str]
    git: Mapping[str, Any] | None
    base: BaseIdentity
    method: str
    algorithm: str
    seed: int
    hardware: Mapping[str, Any]
    trainable: Mapping[str, list[int]]
    resumed: Sequence[Mapping[str, Any]] = field(default_factory=list)

    def write(self, path: Path) -> None:
        """Write atomically, with the schema version."""
        write_json(path, {"schema_version": SCHEMA_VERSION, **asdict(self)})

    @classmethod
    def read(cls, path: Path) -> "Manifest":
        """Read strictly.

        Raises
        ------
        CorruptFileError
            If the file is not a manifest, or its schema version is not supported.
        """
        value = read_json(path)
        version = value.pop("schema_version", None)
        if version != SCHEMA_VERSION:
            raise CorruptFileError(
                f"has schema version {version}, this release reads {SCHEMA_VERSION}", where=path, hint="update spectra"
            )
        try:
            return cls(**{**value, "base": BaseIdentity(**value["base"])})
        except (TypeError, KeyError) as error:
            raise CorruptFileError(f"is not a manifest ({error})", where=path, hint="restore the file") from error


def now() -> str:
    """Return the current time, UTC, in ISO format to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def describe_environment() -> tuple[dict[str, str], dict[str, Any] | None, dict[str, Any]]:
    """Return the versions of packages, the state of git in the working directory, and the hardware."""
    return _versions(), _git(), _hardware()


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _git() -> dict[str, Any] | None:
    def run(*words: str) -> str:
        return subprocess.run(["git", *words], capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        return {"commit": run("rev-parse", "HEAD"), "dirty": bool(run("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _hardware() -> dict[str, Any]:
    return {"machine": platform.machine(), "system": platform.system(), "cores": os.cpu_count()}
