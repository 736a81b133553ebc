"""Turning templates into a page that needs nothing else."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from analysis.findings import text
from analysis.reporting.figures.drawing import to_svg
from analysis.reporting.figures.plots import Plot

TEMPLATES = Path(__file__).parent / "templates"


def fill(template: str, **values: Any) -> str:
    """Fill a template of ``templates/``: every value is escaped, and a missing one is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["superscript"] = _superscript
    script = (TEMPLATES / "sort.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()  # no other script may run in the page
    return environment.get_template(template).render(values, script=Markup(script), script_hash=f"sha256-{digest}")


def data_uri(plot: Plot) -> str:
    """The figure as an address that carries it."""
    return "data:image/svg+xml;base64," + base64.b64encode(to_svg(plot.figure).encode()).decode()


def _superscript(sentence: str) -> Markup:
    """Escape ``sentence`` and raise the exponents written as ``N^0.2``, ``N^alpha`` or ``x^-b``."""
    return Markup(re.sub(rf"\^({text.MINUS}?(?:[\d.]+\d|alpha|beta|b\b))", r"<sup>\1</sup>", str(escape(sentence))))
