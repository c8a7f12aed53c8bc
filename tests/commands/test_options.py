"""A dataclass as the options of a command."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer
from typer.testing import CliRunner

from spectra.commands.options import fields_are_options


@dataclass(frozen=True)
class Draw:
    """Options of a command."""

    names: Annotated[Sequence[str], typer.Option("--name", help="A name.")] = ()
    color: Annotated[Literal["red", "blue"] | None, typer.Option(help="A color.")] = None
    width: Annotated[int, typer.Option(help="A width.")] = 3


@dataclass(frozen=True)
class Say:
    """More options of the same command."""

    loud: Annotated[bool, typer.Option("--loud", help="Loudly.")] = False


def test_each_field_is_an_option_and_the_command_gets_the_dataclass() -> None:
    app, given = typer.Typer(), []

    @app.command()
    @fields_are_options
    def draw(
        where: Annotated[Path, typer.Argument(metavar="WHERE")],
        options: Draw,
        say: Say,
        step: Annotated[int, typer.Option(help="A step.")] = 0,
    ) -> None:
        """Draw."""
        given.append((where, options, say, step))

    run = CliRunner().invoke
    assert run(app, ["here"]).exit_code == 0
    words = ["here", "--name", "a", "--name", "b", "--color", "blue", "--width", "5", "--loud", "--step", "4"]
    assert run(app, words).exit_code == 0
    assert given == [
        (Path("here"), Draw(names=[]), Say(), 0),
        (Path("here"), Draw(["a", "b"], "blue", 5), Say(loud=True), 4),
    ]
    refused = run(app, ["here", "--color", "green"])
    assert refused.exit_code == 2 and "'green' is not one of" in refused.output
    shown = run(app, ["--help"]).output
    assert shown.index("--name") < shown.index("--width") < shown.index("--loud") < shown.index("--step")
