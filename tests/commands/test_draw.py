"""``spectra figures`` and ``spectra report``: drawn again from the tables, without torch."""

import subprocess
import sys
from pathlib import Path

from spectra.runs.layout import RunLayout
from tests.builders import own_run
from tests.commands.conftest import Call


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
