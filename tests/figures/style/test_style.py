import io
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.colors import to_rgb
from PIL import Image

from spectra.figures import heatmap, overlay, profile, trajectory
from spectra.figures.style.style import figure_of, legend_rows, png_bytes, run_style, save
from spectra.runs.tables import Tables


def test_drawing_leaves_global_settings_alone(lora: Tables, tmp_path: Path) -> None:
    before = dict(mpl.rcParams)
    save(figure_of(profile(lora, side="left")), tmp_path / "a.pdf")
    assert dict(mpl.rcParams) == before


def test_pdf_has_no_date_and_no_type_3_font(lora: Tables, tmp_path: Path) -> None:
    raw = save(figure_of(profile(lora, side="left")), tmp_path / "a.pdf").read_bytes()
    assert b"CreationDate" not in raw
    assert b"/Type0" in raw
    assert b"/Type3" not in raw


def test_figures_fit_the_text_block(lora: Tables) -> None:
    for ax in (profile(lora, side="left"), heatmap(lora), trajectory(lora)[0]):
        assert figure_of(ax).get_size_inches()[0] == 5.5


def test_png_has_two_hundred_dots_an_inch(lora: Tables, tmp_path: Path) -> None:
    with Image.open(save(figure_of(profile(lora, side="left")), tmp_path / "a.png")) as image:
        assert image.size == (1100, 520)


def test_a_notebook_shows_the_axes_as_their_figure(lora: Tables) -> None:
    ax = profile(lora, side="left")
    assert ax._repr_png_() == png_bytes(figure_of(ax))
    with Image.open(io.BytesIO(ax._repr_png_())) as image:
        assert image.size == (792, 374)


def test_the_first_28_runs_look_different_and_neighbors_differ_in_grey_or_dash() -> None:
    styles = [run_style(index) for index in range(28)]
    assert len({(s.color, s.linestyle) for s in styles}) == 28
    assert len({(s.color, s.marker) for s in styles}) == 28
    for one, two in zip(styles, styles[1:], strict=False):
        gray = [np.dot([0.299, 0.587, 0.114], to_rgb(style.color)) for style in (one, two)]
        assert one.linestyle != two.linestyle or abs(gray[0] - gray[1]) > 0.1


def test_long_names_take_more_legend_rows() -> None:
    assert legend_rows(["a", "b"]) == 1
    assert legend_rows(["a-very-long-name-of-a-run-" + str(i) for i in range(6)]) >= 3


def test_importing_figures_imports_neither_torch_nor_pyplot() -> None:
    code = "import sys, spectra.figures; print({'torch', 'matplotlib.pyplot', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_awkward_names_are_drawn_as_they_are_written(lora: Tables) -> None:
    names = ["_hidden", "a$b", "$\\frac$", "outputs/" + 60 * "x"]
    ax = overlay(dict.fromkeys(names, lora), side="left")
    png_bytes(figure_of(ax))
    shown = [text.get_text() for text in ax.get_legend().get_texts()]
    assert shown == [" _hidden", "a$b", "$\\frac$", "outputs/xxxxxx…xxxxxxxxxxxxx", "chance ± 2 sd"]
