"""An installed spectra, away from its source tree, reads, analyzes and draws a small run without the training extra."""

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import save_file

import spectra

NAME = "model.layers.{}.self_attn.q_proj"


def write_base(directory: Path) -> None:
    """Write a base of two matrices."""
    directory.mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    weights = {f"{NAME.format(layer)}.weight": torch.randn(24, 16, generator=generator) for layer in range(2)}
    save_file(weights, directory / "model.safetensors", {"format": "pt"})
    (directory / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}))


def write_adapter(directory: Path, base: Path) -> None:
    """Write a LoRA of rank 2 on both matrices."""
    directory.mkdir(parents=True)
    generator = torch.Generator().manual_seed(1)
    tensors = {}
    for layer in range(2):
        key = f"base_model.model.{NAME.format(layer)}"
        tensors[f"{key}.lora_A.weight"] = torch.randn(2, 16, generator=generator)
        tensors[f"{key}.lora_B.weight"] = torch.randn(24, 2, generator=generator) * 0.01
    save_file(tensors, directory / "adapter_model.safetensors", {"format": "pt"})
    config = {
        "peft_type": "LORA",
        "r": 2,
        "lora_alpha": 4,
        "target_modules": ["q_proj"],
        "base_model_name_or_path": str(base),
    }
    (directory / "adapter_config.json").write_text(json.dumps(config))


def main() -> None:
    """Analyze a small adapter by the command and by the library."""
    with TemporaryDirectory() as temporary:
        base, adapter = Path(temporary) / "base", Path(temporary) / "adapter"
        write_base(base)
        write_adapter(adapter, base)
        out = Path(temporary) / "out"
        command = [sys.executable, "-m", "spectra", "analyze", str(adapter), "--base", str(base), "--out", str(out)]
        subprocess.run(command, check=True)
        assert (out / "report.html").stat().st_size > 1000
        assert json.loads((out / "verdict.json").read_text())["verdict"]
        tables = spectra.open(adapter, base=base).analyze()
        assert len(tables.modules) == 2 and (tables.modules["delta_fro"] > 0).all()
    print("spectra", spectra.__version__, "works as installed in", Path(spectra.__file__).parent)


if __name__ == "__main__":
    main()
