"""The command line as a person uses it: what it prints, its exit codes, and one clear line for each fault."""

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from spectra import __version__, cli
from spectra.commands.eval import EvalOptions, Evaluated
from spectra.runs.layout import RunLayout
from tests.builders import lora_config, own_run, small_base, small_factors, trainer_run, write_adapter

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], one_picture: None
) -> Call:
    monkeypatch.setenv("SPECTRA_CACHE", str(tmp_path / "cache"))

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["spectra", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
            raise SystemExit(0)
        printed = capsys.readouterr()
        code = stop.value.code
        return (code if isinstance(code, int) else 0), printed.out, printed.err

    return run


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_base(tmp_path_factory.mktemp("base"))


def test_analyze_prints_coverage_verdict_and_report_and_then_reuse(tmp_path: Path, base: Path, call: Call) -> None:
    run = own_run(tmp_path / "run", base)
    code, out, err = call("analyze", run)
    assert (code, err) == (0, "")
    assert "6/6 matrices, 0 skipped" in out
    assert "0 of 18 module snapshots reused, 18 computed; bases: 0 reused, 6 decomposed" in out
    assert "Healthy" in out
    analysis = RunLayout(run).analysis
    assert analysis.report_html.exists() and analysis.report_markdown.exists()
    assert {p.suffix for p in analysis.figures.iterdir()} == {".pdf", ".svg"}
    stamp = analysis.report_html.stat().st_mtime_ns
    code, out, _ = call("analyze", run)
    assert "18 of 18 module snapshots reused, 0 computed; bases: 0 reused, 0 decomposed" in out
    assert analysis.report_html.stat().st_mtime_ns == stamp


def test_the_verdict_is_printed_before_anything_is_drawn(
    tmp_path: Path, base: Path, call: Call, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    printed: list[str] = []
    monkeypatch.setattr("spectra.figures.write_report", lambda *_, **__: printed.append(capsys.readouterr().out) or [])
    run = own_run(tmp_path / "run", base)
    assert call("analyze", run)[0] == 0
    assert len(printed) == 1 and "Healthy" in printed[0] and "18 computed" in printed[0]
    assert RunLayout(run).analysis.verdict.exists()


def test_how_much_is_drawn(tmp_path: Path, base: Path, call: Call) -> None:
    run = own_run(tmp_path / "run", base)
    analysis = RunLayout(run).analysis
    code, out, _ = call("analyze", run, "--figures", "none")
    assert code == 0 and "Healthy" in out and "report:" not in out
    assert not analysis.report_html.exists() and not analysis.figures.exists()
    assert json.loads(call("analyze", run, "--figures", "none", "--json")[1])["report"] is None
    assert f"report: {analysis.report_html}" in call("analyze", run, "--figures", "report")[1]
    assert {p.suffix for p in analysis.figures.iterdir()} == {".svg"}
    figure = analysis.figures / "trajectory.svg"
    figure.unlink()
    call("analyze", run, "--figures", "report")
    assert figure.exists()


def test_json_out_and_quiet(tmp_path: Path, base: Path, call: Call) -> None:
    run = trainer_run(tmp_path / "trl", base)
    code, out, _ = call("analyze", run, "--json", "--deep", "none", "--out", tmp_path / "there")
    found = json.loads(out)
    assert (code, found["coverage"]["analysed"]) == (0, 6)
    assert (tmp_path / "there" / "tables" / "modules.parquet").exists()
    assert not (run / "spectra").exists()
    assert call("analyze", run, "--quiet", "--deep", "none") == (0, "", "")


def test_figures_and_report_draw_again_from_the_tables(tmp_path: Path, base: Path, call: Call) -> None:
    run = own_run(tmp_path / "run", base)
    code, _, err = call("report", run)
    assert code == 1 and "run `spectra analyze` on the run first" in err
    call("analyze", run)
    figure = RunLayout(run).analysis.figures / "trajectory.pdf"
    drawn, page = figure.read_bytes(), RunLayout(run).analysis.report_html.read_text()
    figure.unlink()
    assert call("figures", run)[0] == 0
    assert figure.read_bytes() == drawn
    RunLayout(run).analysis.report_html.unlink()
    assert call("report", run)[0] == 0
    assert RunLayout(run).analysis.report_html.read_text() == page


def test_figures_need_no_torch(tmp_path: Path, base: Path, call: Call) -> None:
    run = own_run(tmp_path / "run", base)
    call("analyze", run)
    code = (
        "import sys; sys.modules['torch'] = None\n"  # importing it now fails
        f"sys.argv = ['spectra', 'report', {str(run)!r}]\n"
        "from spectra.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("report.html")


def test_compare(tmp_path: Path, base: Path, call: Call) -> None:
    a, b = own_run(tmp_path / "runs" / "a", base), own_run(tmp_path / "runs" / "b", base, steps=(0, 3), method="dora")
    code, out, _ = call("compare", a, b)
    assert code == 0
    assert "lora" in out and "dora" in out and "healthy" in out
    assert f"report: {tmp_path / 'runs' / 'comparison' / 'report.html'}" in out
    assert (tmp_path / "runs" / "comparison" / "comparison.parquet").exists()
    code, out, _ = call("compare", a, b, "--json", "--out", tmp_path / "other")
    assert [row["run"] for row in json.loads(out)] == ["a", "b"]
    code, _, err = call("compare", a)
    assert code == 2 and "needs at least two runs" in err
    code, _, err = call("compare", a, a)
    assert code == 2 and "given twice" in err


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


def test_one_bad_run_does_not_stop_the_others(tmp_path: Path, base: Path, call: Call) -> None:
    one, two = own_run(tmp_path / "a" / "run", base), own_run(tmp_path / "b" / "run", base)
    code, out, err = call(
        "analyze", tmp_path / "absent", one, two, "--out", tmp_path / "out", "--json", "--deep", "none"
    )
    assert code == 1 and "absent: no such directory" in err
    assert [row["run"] for row in json.loads(out)] == [str(one), str(two)]
    # Runs of the same name do not overwrite each other.
    assert {p.parent.name for p in (tmp_path / "out").rglob("verdict.json")} == {"run"}
    assert len(list((tmp_path / "out").rglob("verdict.json"))) == 2


def test_debug_shows_the_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["spectra", "--debug", "analyze", str(tmp_path / "absent")])
    with pytest.raises(FileNotFoundError):
        cli.main()


def test_cache(tmp_path: Path, base: Path, call: Call) -> None:
    assert "0 matrices" in call("cache")[1]
    call("analyze", own_run(tmp_path / "run", base), "--deep", "none")
    assert f"{tmp_path / 'cache' / 'bases'}: 6 matrices" in call("cache")[1]
    assert "0 matrices, 0.0 MB" in call("cache", "--clear")[1]


def test_a_long_evaluation_counts_problems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call) -> None:
    def slow(run: Path, options: object, progress: Callable[[int, int, str], None]) -> Evaluated:
        monkeypatch.setattr("spectra.commands.output.time.monotonic", lambda: math.inf)
        progress(12, 30, "aime24")
        return Evaluated([])

    monkeypatch.setattr("spectra.commands.eval.evaluate", slow)
    assert call("eval", tmp_path)[::2] == (0, "12/30 problems: aime24\n")


def test_no_words_print_the_help(call: Call) -> None:
    code, out, err = call()
    assert code == 2 and "Usage" in out + err and "analyze" in out + err


def test_help_lists_the_choices() -> None:
    shown = " ".join(CliRunner().invoke(cli.app, ["analyze", "--help"]).output.split())
    assert "<auto|all|last|none>" in shown and "<local|ray>" in shown


def test_the_options_of_eval_are_the_fields_of_its_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    given: list[EvalOptions] = []

    def record(run: Path, options: EvalOptions, progress: object) -> Evaluated:
        given.append(options)
        return Evaluated([])

    monkeypatch.setattr("spectra.commands.eval.evaluate", record)
    assert call("eval", tmp_path)[0] == 0
    words = [
        "--benchmark",
        "aime24",
        "--benchmark",
        "math500",
        "--step",
        4,
        "--format",
        "think",
        "--prompt-column",
        "q",
    ]
    assert call("eval", tmp_path, *words, "--k", 8, "--overwrite", "--out", tmp_path / "out")[0] == 0
    plain, changed = given
    assert plain == EvalOptions(benchmarks=[], steps=[])
    assert changed == EvalOptions(
        benchmarks=["aime24", "math500"],
        steps=[4],
        style="think",
        prompt="q",
        k=8,
        overwrite=True,
        out=tmp_path / "out",
    )


def test_methods(call: Call) -> None:
    code, out, _ = call("methods")
    assert code == 0
    for name in ("full", "lora", "rank1", "dora", "pissa", "rslora"):
        assert name in out
    code, out, _ = call("methods", "dora")
    assert "update: m / ‖W_0 + s·B·A‖_row" in out and "2402.09353" in out
    assert "target_modules = q_proj k_proj" in out and "moves base: no" in out
    assert not set("[]{}'") & set(call("methods", "adalora")[1])  # text for people, no Python literals
    assert {row["name"] for row in json.loads(call("methods", "--json")[1])} >= {"full", "lora", "pissa"}


def test_export_for_machines_and_in_silence(tmp_path: Path, base: Path, call: Call) -> None:
    run = own_run(tmp_path / "run", base)
    code, out, err = call("export", run, tmp_path / "adapter", "--json")
    found = json.loads(out)
    assert (code, err, found["path"], found["step"], found["lost"]) == (0, "", str(tmp_path / "adapter"), 4, 0)
    assert all(module["rank"] >= 1 for module in found["modules"].values())
    assert call("export", run, tmp_path / "silent", "--quiet") == (0, "", "")
    assert (tmp_path / "silent" / "adapter_config.json").exists()
    assert json.loads(call("export", run, tmp_path / "model", "--model", "--json")[1]) == {
        "path": str(tmp_path / "model")
    }


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
