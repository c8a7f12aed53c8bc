import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from matplotlib.figure import Figure

from spectra.figures import RunReport, write_comparison_report, write_report
from spectra.runs.layout import AnalysisLayout
from spectra.runs.tables import Tables
from tests.figures.synthetic_tables import comparison, verdict

FACTS = {
    "run": "outputs/lora",
    "base": "org/base @ 93efa2f",
    "versions": "spectra 0.1.0",
    "command": "spectra analyze outputs/lora",
}
HOSTILE = '<script>alert(1)</script>"><img src=x onerror=alert(2)>|`[a](http://b)'


class Page(HTMLParser):
    """What a page would load, its tags, headings and visible words."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.words = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list) -> None:
        found = dict(attrs)
        self.tags.append((tag, found))
        self.loads += [found[name] for name in ("src", "href", "srcset", "data", "action") if name in found]
        if tag not in ("img", "meta", "link", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        self.words += data

    def all(self, tag: str) -> list[dict]:
        return [attrs for name, attrs in self.tags if name == tag]


def written(tables: Tables, out: Path, word: str = "healthy") -> tuple[str, str]:
    html, markdown, *_ = write_report(tables, verdict(word), FACTS, AnalysisLayout(out))
    return html.read_text(encoding="utf-8"), markdown.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def texts(pissa: Tables, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return written(pissa, tmp_path_factory.mktemp("report"), "reward_collapsed")


def test_page_loads_nothing_from_anywhere(texts: tuple[str, str]) -> None:
    page = Page(texts[0])
    assert page.loads
    assert all(load.startswith(("data:image/svg+xml,", "#")) for load in page.loads)
    assert not re.search(r"url\((?!%23)|@import|<link|<script", texts[0])
    assert len(texts[0].encode()) < 2_000_000
    assert page.open == []


def test_page_says_verdict_evidence_coverage_and_facts(texts: tuple[str, str]) -> None:
    page = Page(texts[0])
    for expected in (
        "reward collapsed", "Reward fell to zero after step 40", "Lower the learning rate", "28/30 matrices, 2 skipped",
        "tied to the embedding", "0.213", "8 reward collapsed", "spectra analyze outputs/lora", "org/base @ 93efa2f",
    ):  # fmt: skip
        assert expected in page.words
    assert page.words.index("reward collapsed") < page.words.index("Evidence") < page.words.index("The course")


def test_page_says_what_broke_in_order_and_the_gravest_check_first(texts: tuple[str, str]) -> None:
    for text in (Page(texts[0]).words, texts[1]):
        entropy, reward, size = (text.index(f"since step {step}") for step in (28, 40, 48))
        assert entropy < reward < size
        assert text.index("no magnitude is stored") < text.index("30 tensors are the ones")
        assert "Set use\\_dora to false" in text or "Set use_dora to false" in text
    assert "12 steps after the first" in Page(texts[0]).words
    assert "First, since step 28: entropy fell" in Page(texts[0]).words


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of the words alone: drawing takes most of the time."""
    for name in ("report.run_figures", "comparison.run_figures", "comparison.comparison_figures"):
        monkeypatch.setattr(f"spectra.figures.report.{name}", lambda *_: iter(()))


@pytest.mark.usefixtures("no_pictures")
def test_a_verdict_of_old_has_no_signals_and_no_checks(untrained: Tables, tmp_path: Path) -> None:
    old = {key: value for key, value in verdict().items() if key not in ("signals", "checks")}
    html, markdown, *_ = write_report(untrained, old, FACTS, AnalysisLayout(tmp_path))
    for path in (html, markdown):
        assert "Bookkeeping" not in path.read_text(encoding="utf-8")


def test_page_is_accessible(texts: tuple[str, str]) -> None:
    page = Page(texts[0])
    assert len(page.all("img")) == 8
    assert all(image["alt"] and image["width"] and image["height"] for image in page.all("img"))
    assert all("scope" in cell for cell in page.all("th"))
    assert page.all("html")[0]["lang"] == "en"
    assert {"viewport", "color-scheme"} <= {meta.get("name") for meta in page.all("meta")}
    levels = [int(name[1]) for name, _ in page.tags if re.fullmatch(r"h\d", name)]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in zip(levels, levels[1:], strict=False))


def test_colors_have_contrast_in_both_schemes(texts: tuple[str, str]) -> None:
    schemes = re.findall(r":root \{(.*?)\}", texts[0], re.DOTALL)
    assert len(schemes) == 2
    for scheme in schemes:
        color = dict(re.findall(r"--(\w+): (#\w{6})", scheme))
        for ink in ("ink", "soft", "link"):
            assert contrast(color[ink], color["page"]) > 4.5
            assert contrast(color[ink], color["card"]) > 4.5
        for tone in ("good", "idle", "warn", "bad"):
            assert contrast(color["on"], color[tone]) > 4.5


def test_markdown_has_the_same_tables_and_refers_to_the_figures(texts: tuple[str, str]) -> None:
    text = texts[1]
    assert text.startswith("# outputs/lora\n")
    assert "**✕ reward collapsed.**" in text
    assert "| relative fro | 0.213 | – | 0.02 | 40 |" in text
    assert "(figures/profile_left.svg)" in text
    assert "| q\\_proj | 4 |" in text
    widths = {line.count("|") for line in text.splitlines() if line.startswith("| ") and "proj" in line}
    assert widths == {9}


def test_hostile_names_stay_text(untrained: Tables, tmp_path: Path) -> None:
    said = verdict()
    said["summary"] = said["coverage"]["text"] = HOSTILE
    said["modules"] = {HOSTILE: {"verdict": "healthy", "says": HOSTILE}}
    said["evidence"][0] |= {"metric": HOSTILE, "null": HOSTILE}
    said["signals"] = [{"signal": HOSTILE, "onset_step": 1, "says": HOSTILE}]
    said["checks"][1] |= {"name": HOSTILE, "where": HOSTILE, "action": HOSTILE}
    said["checks"][1]["evidence"] |= {"says": HOSTILE}
    said["coverage"]["skipped"][0] = {"module": HOSTILE, "reason": HOSTILE}
    hostile = untrained.modules.assign(kind=HOSTILE)
    tables = Tables(hostile, untrained.projection, untrained.profile, untrained.spectrum, untrained.series)
    html, markdown, *_ = write_report(tables, said, {"run": HOSTILE, HOSTILE: HOSTILE}, AnalysisLayout(tmp_path))
    page = Page(html.read_text(encoding="utf-8"))
    assert page.words.count(HOSTILE) >= 10
    assert not page.all("script")
    assert all("onerror" not in image for image in page.all("img"))
    text = markdown.read_text(encoding="utf-8")
    assert re.findall(r"(?<!\\)<\w", text) == []
    assert re.findall(r"(?<![\\!])\[a\]", text) == []


def test_vectors_alone_have_no_empty_part_and_one_sentence_says_why(vectors: Tables, tmp_path: Path) -> None:
    html, markdown = written(vectors, tmp_path)
    page = Page(html)
    assert len(page.all("img")) == 3
    for text in (page.words, markdown):
        assert text.count("Only vectors train, and a vector has no singular directions") == 1
        for gone in ("Where in the base's spectrum", "principal, left", "effective rank"):
            assert gone not in text
    row = next(line for line in markdown.splitlines() if line.startswith("| input"))
    assert row.count("|") == 4
    assert "–" not in row


def test_a_run_without_update_has_a_report(untrained: Tables, tmp_path: Path) -> None:
    html, markdown = written(untrained, tmp_path, "not_learning")
    assert "not learning" in Page(html).words
    assert "nan" not in markdown.lower()


@pytest.mark.usefixtures("no_pictures")
def test_a_verdict_without_evidence_or_modules_has_a_report(untrained: Tables, tmp_path: Path) -> None:
    bare = {
        "verdict": "something_new",
        "summary": "s",
        "action": "a",
        "evidence": [],
        "coverage": {"analysed": 0, "total": 0, "skipped": [], "text": "0/0"},
        "modules": {},
    }
    html, *_ = write_report(untrained, bare, {}, AnalysisLayout(tmp_path))
    page = Page(html.read_text(encoding="utf-8"))
    assert "something new" in page.words
    assert "names no evidence" in page.words


def test_each_figure_is_drawn_once_and_saved_once_in_each_format(
    whole: Tables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[tuple[int, str]] = []
    figures: list[Figure] = []  # held, so that no two have one id
    real = Figure.savefig

    def count(figure: Figure, *arguments: Any, **options: Any) -> None:
        figures.append(figure)
        saved.append((id(figure), options["format"]))
        real(figure, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", count)
    _, _, *paths = write_report(whole, verdict(), FACTS, AnalysisLayout(tmp_path), pdf=True)
    assert len(paths) == len(saved) == len(set(saved)) == 28
    assert len({figure for figure, _ in saved}) == 14
    assert {kind for _, kind in saved} == {"pdf", "svg"}


def test_report_is_the_same_bytes_on_a_second_run(untrained: Tables, tmp_path: Path) -> None:
    assert written(untrained, tmp_path / "a") == written(untrained, tmp_path / "b")


@pytest.fixture(scope="module")
def side_by_side(lora: Tables, pissa: Tables, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    runs = {
        "lora <r=32>": RunReport(lora, verdict(), FACTS),
        "pissa": RunReport(pissa, verdict("reward_collapsed"), FACTS),
    }
    pairs = pd.DataFrame({"pair": ["lora − pissa"], "difference": [0.021]})
    out = tmp_path_factory.mktemp("comparison")
    paths = write_comparison_report(
        runs, comparison(list(runs)), out, facts=FACTS, further={"Paired differences": pairs}
    )
    assert {path.parent for path in paths} == {out}
    html, markdown = (path.read_text(encoding="utf-8") for path in paths[:2])
    return html, markdown


def test_comparison_shows_every_column_and_run(side_by_side: tuple[str, str]) -> None:
    page = Page(side_by_side[0].replace("\N{NO-BREAK SPACE}", " "))
    for expected in (
        "2 runs side by side", "lora <r=32>", "134,000,000", "100 %", "1×10⁻⁵", "Paired differences", "0.021",
        "✕ reward collapsed",
    ):  # fmt: skip
        assert expected in page.words
    assert len(page.all("img")) == 4 + 2 * 8
    folded = [attrs["id"] for attrs in page.all("details") if "id" in attrs]
    assert {"#" + name for name in folded} == {load for load in page.loads if load.startswith("#")}
    assert all(load.startswith(("data:image/svg+xml,", "#")) for load in page.loads)
    assert page.open == []
    assert len(side_by_side[0].encode()) < 2_000_000


def test_comparison_markdown_has_whole_tables(side_by_side: tuple[str, str]) -> None:
    text = side_by_side[1]
    for title, end in (("## Methods", "## Updates"), ("## Updates", "### Paired")):
        rows = text[text.index(title) : text.index(end)].strip().splitlines()[2:]
        assert len({line.count("|") for line in rows}) == 1
        assert len(rows) == 4
    assert "(overlay_left.svg)" in text
    assert "lora \\<r=32\\>" in text


def contrast(one: str, two: str) -> float:
    """Return the WCAG contrast ratio of two colors."""
    low, high = sorted((luminance(one), luminance(two)))
    return (high + 0.05) / (low + 0.05)


def luminance(color: str) -> float:
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.usefixtures("no_pictures")
def test_a_long_name_can_break_and_a_number_cannot(untrained: Tables, tmp_path: Path) -> None:
    name = "outputs/qwen2.5-math-1.5b/adalora-r32"
    paths = write_comparison_report({name: RunReport(untrained, verdict(), FACTS)}, comparison([name, "b"]), tmp_path)
    html = paths[0].read_text(encoding="utf-8")
    assert "outputs/<wbr>qwen2.5-math-1.5b/<wbr>adalora-r32" in html
    assert "40\N{NO-BREAK SPACE}%\N{NO-BREAK SPACE}→\N{NO-BREAK SPACE}42\N{NO-BREAK SPACE}% (" in html
