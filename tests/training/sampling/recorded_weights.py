"""The weights of a run's model: the frozen ones before and after, and what a sampler should have at a step."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from spectra.runs.layout import RunLayout
from spectra.training.loop import run
from spectra.weights.storage.tensors import digest


def fingerprints(model: Any) -> dict[str, str]:
    return {name: digest(p.data) for name, p in model.named_parameters() if not p.requires_grad}


class Watch:
    """Remembers the model that a run builds, and its frozen weights as they were then."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._build = run.build_policy
        self._model: Any = None
        self.before: dict[str, str] = {}
        monkeypatch.setattr(run, "build_policy", self._watched)

    def _watched(self, *args: Any, **kwargs: Any) -> Any:
        policy = self._build(*args, **kwargs)
        self._model, self.before = policy.model, fingerprints(policy.model)
        return policy

    def check(self) -> None:
        """Assert that the frozen weights are what they were, bit for bit."""
        assert len(self.before) > 10
        assert fingerprints(self._model) == self.before


def merged(layout: RunLayout, base: Path, step: int, dtype: torch.dtype) -> Any:
    """Return the base with a snapshot's adapter merged into it by peft."""
    from peft import PeftModel

    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    return PeftModel.from_pretrained(model, layout.snapshot(step)).merge_and_unload()
