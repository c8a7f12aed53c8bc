"""How often a file is opened or parsed."""

from collections import Counter
from pathlib import Path

import pytest
from safetensors import safe_open

from spectra.weights.storage import open_files


def count_reads(root: Path, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Return the counter of tensor files opened and JSON files read from now on, by their path under ``root``."""
    counts: Counter[str] = Counter()
    read_text = Path.read_text

    def opens(path: Path, *, framework: str) -> safe_open:
        counts[str(path.relative_to(root))] += 1
        return safe_open(path, framework=framework)

    def reads(path: Path, *args: str, **kwargs: str) -> str:
        if path.suffix == ".json":
            counts[str(path.relative_to(root))] += 1
        return read_text(path, *args, **kwargs)

    monkeypatch.setattr(open_files, "safe_open", opens)
    monkeypatch.setattr(Path, "read_text", reads)
    return counts
