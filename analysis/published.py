"""The published computation on a LoRA run, restated from its formulas: what scripts do for each checkpoint.

    python analysis/published.py BASE RUN OUT.json

For each checkpoint and matrix, in float32: the dense ΔW = s·BA, its singular values, the full SVD W = UΣVᵀ of the base
matrix, and the energy of ΔW along each u_i and each v_j. Nothing is kept between checkpoints. The scripts behind the
papers do this twice, in one program for ΔW and one for the projection, and draw a bar for each matrix; here it is done
once and nothing is drawn, so that their cost is understated.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

FRACTION = 0.5


def shares(weight: torch.Tensor, delta: torch.Tensor) -> dict[str, float]:
    """Return the share of ΔW's energy in the first half of W's singular directions, and the shape of its spectrum."""
    u, _, vh = torch.linalg.svd(weight, full_matrices=False)
    sigma = torch.linalg.svdvals(delta)
    energy = (sigma**2).sum()
    left, right = ((u.T @ delta) ** 2).sum(1) / energy, ((delta @ vh.T) ** 2).sum(0) / energy
    half = max(1, round(FRACTION * len(left)))
    return {
        "left": float(left[:half].sum()),
        "right": float(right[:half].sum()),
        "stable_rank": float(energy / sigma[0] ** 2),
    }


def checkpoint(base: Path, directory: Path) -> dict[str, dict[str, float]]:
    """Return the shares of every matrix of one checkpoint."""
    config = json.loads((directory / "adapter_config.json").read_text())
    weights = load_file(base / "model.safetensors")
    factors = load_file(directory / "adapter_model.safetensors")
    scale = config["lora_alpha"] / config["r"]
    found = {}
    for name, b in factors.items():
        if name.endswith(".lora_B.weight"):
            module = name.removeprefix("base_model.model.").removesuffix(".lora_B.weight")
            a = factors[name.replace("lora_B", "lora_A")]
            found[module] = shares(weights[f"{module}.weight"].float(), scale * (b @ a))
    return found


def main(base: Path, run: Path, out: Path) -> None:
    """Write the shares of every checkpoint, by step and module."""
    torch.set_num_threads(1)
    checkpoints = sorted(run.glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2]))
    found = {path.name.partition("-")[2]: checkpoint(base, path) for path in checkpoints}
    out.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
