"""The help of every command, as text files in ``tests/commands/help``: a change of wording is seen in review.

To renew the files after an intended change: ``pytest tests/commands/test_help.py --renew-help``.
"""

from pathlib import Path

import pytest
import typer.rich_utils
from typer.testing import CliRunner

from spectra import cli

HELP = Path(__file__).parent / "help"
COMMANDS = sorted(
    command.name or command.callback.__name__ for command in cli.app.registered_commands if command.callback
)
RENEW = "pytest tests/commands/test_help.py --renew-help"


@pytest.fixture
def width(monkeypatch: pytest.MonkeyPatch) -> None:
    """Print as on a terminal of 100 columns without colors, whatever the environment says."""
    monkeypatch.setattr(typer.rich_utils, "MAX_WIDTH", 100)
    monkeypatch.setattr(typer.rich_utils, "COLOR_SYSTEM", None)
    monkeypatch.setattr(typer.rich_utils, "FORCE_TERMINAL", None)


@pytest.mark.parametrize("name", ["spectra", *COMMANDS])
@pytest.mark.usefixtures("width")
def test_the_help_of_every_command_is_as_reviewed(name: str, request: pytest.FixtureRequest) -> None:
    words = ["--help"] if name == "spectra" else [name, "--help"]
    done = CliRunner().invoke(cli.app, words, prog_name="spectra")
    assert done.exit_code == 0
    shown = "".join(f"{line.rstrip()}\n" for line in done.output.strip().splitlines())
    file = HELP / f"{name}.txt"
    if request.config.getoption("--renew-help"):
        file.write_text(shown, encoding="utf-8")
    kept = file.read_text(encoding="utf-8") if file.exists() else ""
    assert shown == kept, f"the help of {name} changed; if that is meant, run `{RENEW}` and commit {file.name}"


def test_no_help_file_is_left_of_a_command_that_is_gone() -> None:
    assert {file.stem for file in HELP.glob("*.txt")} == {"spectra", *COMMANDS}, f"remove it, or run `{RENEW}`"
