"""What the tests of the doctor share: healthy directories, and ways to spoil them."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from spectra.analysis.doctor import Diagnosis, examine
from spectra.analysis.verdict.findings import Check
from tests.builders import lora_config, small_base, small_factors, write_adapter

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def healthy_adapter(directory: Path, base: Path, *, r: int = 2, **settings: Any) -> Path:
    """Write a LoRA adapter of a trained run with nothing wrong."""
    return write_adapter(directory, lora_config(str(base), r=r, alpha=2 * r, **settings), small_factors(r=r))


def base_with_config(directory: Path, **settings: Any) -> Path:
    """Write a base whose config.json says something."""
    base = small_base(directory)
    (base / "config.json").write_text(json.dumps(settings))
    return base


def edit_config(adapter: Path, **settings: Any) -> None:
    """Change keys of an adapter's configuration."""
    config = json.loads((adapter / CONFIG).read_text())
    (adapter / CONFIG).write_text(json.dumps({**config, **settings}))


def edit_tensors(adapter: Path, change: Callable[[dict[str, Tensor]], Mapping[str, Tensor]]) -> None:
    """Change an adapter's tensors."""
    tensors = change(load_file(adapter / WEIGHTS))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, adapter / WEIGHTS)


def base_tensors(base: Path) -> dict[str, Tensor]:
    """Return the tensors of a base."""
    return dict(load_file(base / "model.safetensors"))


def triplets(weight: Tensor, r: int, *, last: bool) -> tuple[Tensor, Tensor]:
    """Return (B₀, A₀), made of the first or last r singular triplets, with B₀A₀ = W_r."""
    u, s, vh = torch.linalg.svd(weight.double(), full_matrices=False)
    kept = slice(len(s) - r, None) if last else slice(0, r)
    return u[:, kept] * s[kept].sqrt(), s[kept].sqrt()[:, None] * vh[kept]


def moved_factors(base: Path, r: int = 2, *, last: bool, scale: float = 2.0, step: float = 1e-3) -> dict[str, Any]:
    """Return the start and the trained factors of PiSSA (first triplets) or MiLoRA (last) on a small base."""
    start, trained = {}, {}
    for number, (name, weight) in enumerate(sorted(base_tensors(base).items())):
        if weight.ndim == 2:
            b, a = triplets(weight, r, last=last)
            b, a = b / scale**0.5, a / scale**0.5
            noise = torch.Generator().manual_seed(number)
            module = name.removesuffix(".weight")
            start[module] = (b, a)
            trained[module] = (
                b + step * torch.randn(b.shape, generator=noise, dtype=torch.float64),
                a + step * torch.randn(a.shape, generator=noise, dtype=torch.float64),
            )
    return {"start": start, "trained": trained}


def seen(path: Path, name: str, base: Path | None = None, initial: Path | None = None) -> list[Check]:
    """Return what one check finds."""
    return [check for check in examine(path, base, initial).checks if check.name == name]


def only(path: Path, name: str, base: Path | None = None) -> Check:
    """Return the one finding of a check."""
    (check,) = seen(path, name, base)
    return check


def faults(diagnosis: Diagnosis) -> list[str]:
    """Return the names of the checks that found a fault."""
    return [check.name for check in diagnosis.faults]


def drawn_start(weight: torch.Tensor, seed: int) -> torch.Tensor:
    """Return what peft's pissa_niter_4 of rank 6 takes out of a weight."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        u, s, v = torch.svd_lowrank(weight, 6, niter=4)
    return (u * s) @ v.T
