"""The command line as a person uses it: what it prints, its exit codes, and one clear line for each fault."""

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from spectra import __version__, cli
from tests.builders import lora_config, own_run, small_base, small_factors, write_adapter
from tests.commands.conftest import Call

FAULTS: dict[str, tuple[list[str], int, str]] = {
    "no such run": (["analyze", "absent"], 1, "absent: no such directory; give the directory of a run"),
    "no such base": (["analyze", "RUN", "--base", "./absent"], 1, "./absent: no such base model directory"),
    "pissa without its start": (["analyze", "PISSA"], 1, "needs the adapter of step 0"),
    "another base": (["analyze", "RUN", "--base", "OTHER"], 1, "is not the tensor that this run was trained on"),
    "no such engine": (["analyze", "RUN", "--engine", "dask"], 2, "'dask' is not one of 'local', 'ray'"),
    "no such depth": (["analyze", "RUN", "--deep", "most"], 2, "'most' is not one of 'auto', 'all', 'last', 'none'"),
    "no such format": (["eval", "RUN", "--format", "bold"], 2, "'bold' is not one of 'none', 'boxed', 'think'"),
    "no such generator": (["eval", "RUN", "--generator", "tgi"], 2, "'tgi' is not one of 'hf', 'vllm'"),
    "no such type": (["eval", "RUN", "--dtype", "int8"], 2, "'int8' is not one of 'float32', 'bfloat16'"),
    "no number": (["eval", "RUN", "--k", "many"], 2, "'--k'"),
    "no such option": (["analyze", "RUN", "--depth", "all"], 2, "--depth"),
    "no run": (["analyze"], 2, "Missing argument 'RUN'; add --help to see the usage"),
    "no such command": (["analyse", "RUN"], 2, "Did you mean 'analyze'?"),
    "no such device": (["analyze", "RUN", "--device", "abacus"], 2, "use cpu"),
    "an output that cannot be made": (["analyze", "RUN", "--out", "/proc/nowhere"], 1, "choose another --out"),
    "no jobs": (["analyze", "RUN", "--jobs", "0"], 2, "pass a positive number"),
    "no such recipe": (["train", "absent.yaml"], 2, "absent.yaml"),
    "no such method": (["methods", "lorra"], 2, "lora"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_faults_are_one_line_with_the_hint(tmp_path: Path, base: Path, call: Call, case: str) -> None:
    words, expected, says = FAULTS[case]
    places = {
        "RUN": own_run(tmp_path / "run", base),
        "OTHER": small_base(tmp_path / "other", seed=3),
        "PISSA": write_adapter(
            tmp_path / "pissa", lora_config(str(base), init_lora_weights="pissa_niter_4"), small_factors()
        ),
    }
    code, out, err = call(*(places.get(word, word) for word in words))
    assert (code, out) == (expected, "")
    assert err.count("\n") == 1 and err.startswith("spectra: ")
    assert says in err


def test_debug_shows_the_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["spectra", "--debug", "analyze", str(tmp_path / "absent")])
    with pytest.raises(FileNotFoundError):
        cli.main()


def test_no_words_print_the_help(call: Call) -> None:
    code, out, err = call()
    assert code == 2 and "Usage" in out + err and "analyze" in out + err


def test_help_lists_the_choices() -> None:
    shown = " ".join(CliRunner().invoke(cli.app, ["analyze", "--help"]).output.split())
    assert "<auto|all|last|none>" in shown and "<local|ray>" in shown


def test_every_command_is_helped_and_in_the_readme() -> None:
    runner = CliRunner()
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    names = [command.name or command.callback.__name__ for command in cli.app.registered_commands if command.callback]
    assert len(names) >= 7
    for name in names:
        shown = runner.invoke(cli.app, [name, "--help"])
        assert shown.exit_code == 0 and "Usage" in shown.output
        assert f"spectra {name}" in readme
    assert __version__ in runner.invoke(cli.app, ["--version"]).output
