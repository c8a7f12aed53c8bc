"""A study: spelt out strictly, trained side by side, and one failure stops nothing else."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from spectra.commands.study import study as study_command
from spectra.errors import RecipeError, UsageError
from spectra.runs.layout import RunLayout
from spectra.runs.manifest import Manifest
from spectra.training.loop.progress import Reporter
from spectra.training.studies.study import Study, load_study, train_study

SMALL = """\
name: small
common:
  model: {base: BASE}
  steps: 1
  prompts_per_step: 2
  algorithm: {generations: 2, max_completion_length: 3}
  evaluation: {every: null}
  optimizer:
    learning_rate: 1e-3
runs:
  plain:
  slow:
    optimizer: {learning_rate: 1e-4}
  broken:
    method: {target_modules: [c_attn]}
"""


class Ear(Reporter):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def small(tmp_path: Path, tiny_base: Path) -> Path:
    return write(tmp_path, SMALL.replace("BASE", str(tiny_base)))


def test_runs_are_the_common_recipe_with_their_differences(small: Path) -> None:
    study = load_study(small)
    assert (study.name, study.workers, list(study.recipes)) == ("small", 2, ["plain", "slow", "broken"])
    plain, slow, _ = study.recipes.values()
    assert (plain.name, slow.name) == ("plain", "slow")
    assert (plain.optimizer.learning_rate, slow.optimizer.learning_rate) == (1e-3, 1e-4)
    assert slow.model_copy(update={"name": "plain", "optimizer": plain.optimizer}) == plain


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: s\nruns: {a: }\nworker: 2\n", "study.yaml:3: unknown key 'worker'; did you mean 'workers'?"),
        ("name: s\nruns:\n  a:\n    optimizer:\n      lr: 1.0\n", "study.yaml:5: unknown key 'optimizer.lr'"),
        ("name: s\ncommon:\n  stepz: 1\nruns: {a: }\n", "study.yaml:3: unknown key 'stepz'; did you mean 'steps'?"),
        ("name: s\nmethod: {name: full}\n", "study.yaml: is the recipe of a single run; use `spectra train`"),
        ("name: s\nlaunch: {}\nruns: {a: }\n", "study.yaml:2: missing key 'launch.config'"),
        ("name: s\nruns: {}\n", "study.yaml:2: runs is {}"),
        ("runs: {a: }\n", "missing key 'name'"),
        ("name: s\nruns: {../a: }\n", "study.yaml:2: runs.../a"),
        ("name: s\nruns: {a: 3}\n", "study.yaml:2: runs.a is 3"),
        ("name: s\nruns: {a: {method: {name: full}, steps: 0}}\n", "study.yaml:2: steps is 0"),
    ],
)
def test_faults_have_their_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_study(write(tmp_path, text))
    assert message in str(caught.value)


@pytest.mark.slow
def test_a_failing_run_does_not_stop_the_others(small: Path, tmp_path: Path) -> None:
    study, out, ear = load_study(small), tmp_path / "out", Ear()
    done = train_study(study, out, ear)
    assert re.search(r"1 of 3 runs failed: broken \(method\.target_modules: .*'c_attn'", str(done.error))
    assert done.error is not None and done.error.exit_code == 1
    assert (done.finished, list(done.faults)) == ([out / "plain", out / "slow"], ["broken"])
    for name in ("plain", "slow"):
        assert RunLayout(out / name).snapshot(1).exists()
        assert "step 1/1 reward" in (out / name / "train.log").read_text()
    assert any(line.startswith("[slow] step 1/1 reward") for line in ear.lines)
    assert "c_attn" in (out / "broken" / "train.log").read_text()

    mended = Study(study.name, study.workers, {name: study.recipes[name] for name in ("plain", "slow")})
    again = Ear()
    before = (out / "plain" / "train.log").read_text()
    done = train_study(mended, out, again)
    assert (done.finished, done.error) == ([out / "plain", out / "slow"], None)
    assert sorted(again.lines) == ["[plain] already finished", "[slow] already finished"]
    assert (out / "plain" / "train.log").read_text() == before


def finished(out: Path, small: Path, digests: dict[str, dict[str, str]]) -> Study:
    """A study whose runs are finished by hand, each on weights with the given digests."""
    from spectra.config import dump

    study = load_study(small)
    recipes = {name: study.recipes[name] for name in digests}
    for name, recipe in recipes.items():
        layout = RunLayout(out / name)
        layout.snapshot(1).mkdir(parents=True)
        layout.recipe.write_text(dump(recipe))
        base: dict[str, Any] = {"name": "embedded", "revision": None, "fingerprints": digests[name]}
        facts = {"created": "", "versions": {}, "git": None, "method": "lora", "algorithm": "dapo", "seed": 0}
        layout.manifest.write_text(
            json.dumps({"schema_version": 1, "base": base, "hardware": {}, "trainable": {}, **facts})
        )
        Manifest.read(layout.manifest)
    return Study("small", 2, recipes)


def test_runs_that_began_from_different_weights_are_not_one_study(small: Path, tmp_path: Path) -> None:
    same = finished(tmp_path / "same", small, {"plain": {"w": "1"}, "slow": {"w": "1"}})
    assert len(train_study(same, tmp_path / "same", Reporter()).finished) == 2
    other = finished(tmp_path / "other", small, {"plain": {"w": "1"}, "slow": {"w": "2"}})
    done = train_study(other, tmp_path / "other", Reporter())
    assert "runs plain and slow started from different weights of the base model 'embedded'" in str(done.error)
    assert done.finished == []


def test_a_directory_of_another_recipe_fails_that_run_only(small: Path, tmp_path: Path) -> None:
    study = finished(tmp_path, small, {"plain": {"w": "1"}, "slow": {"w": "1"}})
    changed = {**study.recipes, "slow": study.recipes["slow"].model_copy(update={"seed": 9})}
    ear = Ear()
    done = train_study(Study("small", 1, changed), tmp_path, ear)
    assert "1 of 2 runs failed: slow" in str(done.error)
    assert "seed = 0, but the recipe has 9; choose another --out, or start over with --overwrite slow" in str(
        done.error
    )
    assert done.finished == [tmp_path / "plain"]
    assert "[plain] already finished" in ear.lines


def test_a_worker_that_dies_without_a_word(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mute = tmp_path / "mute"
    mute.write_text("#!/bin/sh\nexit 9\n")
    mute.chmod(0o755)
    monkeypatch.setattr("spectra.training.studies.environment.sys.executable", str(mute))
    study = load_study(small)
    done = train_study(Study("small", 1, {"plain": study.recipes["plain"]}), tmp_path / "out", Reporter())
    assert "1 of 1 runs failed: plain (no output)" in str(done.error)


def test_the_command_writes_where_it_is_told(small: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    text = small.read_text().partition("  slow:")[0]
    finished(tmp_path / "out", small, {"plain": {"w": "1"}})
    done = study_command(write(tmp_path, text), out=tmp_path / "out", quiet=True)
    assert done.finished == [tmp_path / "out" / "plain"]
    assert capfd.readouterr() == ("", "")


def test_a_run_to_start_again_must_be_in_the_study(small: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--overwrite slo: the study has no such run; did you mean 'slow'"):
        train_study(load_study(small), tmp_path / "out", Reporter(), overwrite=["slo"])
    assert not (tmp_path / "out").exists()


def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Let a shell script stand for the interpreter of the workers; its second argument is the worker's module."""
    fake = tmp_path / "python"
    fake.write_text(f"#!/bin/sh\n{script}\n")
    fake.chmod(0o755)
    monkeypatch.setattr("spectra.training.studies.environment.sys.executable", str(fake))


def test_runs_are_started_again_by_name_or_where_they_got_nowhere(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = finished(tmp_path, small, {"plain": {"w": "1"}, "slow": {"w": "1"}})
    changed = Study("small", 1, {name: recipe.model_copy(update={"seed": 9}) for name, recipe in study.recipes.items()})
    stand_in(tmp_path, monkeypatch, 'echo "$@" > "$3"/words')
    assert list(train_study(changed, tmp_path, Reporter()).faults) == ["plain", "slow"]
    assert list(train_study(changed, tmp_path, Reporter(), overwrite=["slow"]).faults) == ["plain"]
    assert (tmp_path / "slow" / "words").read_text().endswith("recipe.yaml --overwrite\n")
    # Without a snapshot after step 0 nothing is lost.
    RunLayout(tmp_path / "plain").snapshot(1).rmdir()
    assert train_study(changed, tmp_path, Reporter(), overwrite=["slow"]).error is None
    assert (tmp_path / "plain" / "words").read_text().endswith("recipe.yaml\n")


def test_the_fault_is_the_worker_s_and_not_what_a_launcher_says_after_it(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path, monkeypatch, "echo spectra: key is wrong; echo Traceback; exit 2")
    study, ear = load_study(small), Ear()
    done = train_study(Study("small", 1, {"plain": study.recipes["plain"]}), tmp_path / "out", ear)
    assert done.faults == {"plain": "key is wrong"}
    assert ear.lines[0] == "[plain] spectra: key is wrong" and "Traceback" not in " ".join(ear.lines)
    assert "Traceback" in (tmp_path / "out" / "plain" / "train.log").read_text()


def test_an_interrupted_study_says_one_line(small: Path, tmp_path: Path) -> None:
    """The whole foreground group gets the signal of Ctrl-C, as on a terminal."""
    root = Path(__file__).parents[3]
    text = small.read_text().partition("  slow:")[0].replace("steps: 1\n", "steps: 100000\n")
    command = [sys.executable, "-m", "spectra", "study", str(write(tmp_path, text)), "--out", str(tmp_path / "out")]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(root)},
        # What a shell starts in the background ignores the signal, and so does all that it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stderr is not None
    try:
        first = process.stderr.readline()
        os.killpg(process.pid, signal.SIGINT)
        out, rest = process.communicate()
    finally:
        process.kill()
    assert "starting; lora" in first
    said = [line for line in rest.splitlines() if not line.startswith("[plain] step ")]
    assert (process.returncode, out, said) == (130, "", ["stopped: the same command resumes from the last checkpoints"])


@pytest.mark.slow
def test_each_run_is_launched_with_as_many_processes(small: Path, tmp_path: Path) -> None:
    launch = Path(__file__).parents[3] / "training" / "launch" / "ddp_cpu.yaml"
    text = small.read_text().replace("name: small\n", f"name: small\nlaunch: {{config: {launch}, processes: 2}}\n")
    study, ear = load_study(write(tmp_path, text)), Ear()
    recipes = {name: study.recipes[name] for name in ("plain", "broken")}
    done = train_study(Study("small", 2, recipes, study.launch), tmp_path / "out", ear)
    assert done.finished == [tmp_path / "out" / "plain"]
    assert Manifest.read(RunLayout(tmp_path / "out" / "plain").manifest).hardware["processes"] == 2
    assert sum("starting; lora" in line for line in ear.lines) == 1
    assert done.faults["broken"].startswith("method.target_modules: ") and "'c_attn'" in done.faults["broken"]
