"""The template environment that every page shares."""

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from spectra.figures.style import formats


def environment() -> Environment:
    """Return the environment of the page templates: HTML is escaped, an unknown name is an error."""
    made = Environment(
        loader=PackageLoader("spectra.figures.report", "templates"),
        autoescape=select_autoescape(["html.j2"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters |= {
        "number": formats.number,
        "share": formats.share,
        "words": formats.words,
        "tone": formats.tone,
        "sign": formats.sign,
        "breakable": formats.breakable,
        "status_tone": formats.status_tone,
        "status_sign": formats.status_sign,
        "sort_checks": formats.sort_checks,
        "md": formats.markdown,
    }
    made.globals |= {"lift": formats.lift}
    return made
