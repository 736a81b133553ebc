"""The page as a browser shows it: tables sort by mouse and keyboard, and nothing but its own script runs."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from analysis.reporting.page import TEMPLATES, Table, fill
from analysis.reporting.render import render
from analysis.study.records import read_study

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NUMBERS = [
    *("5.24\u00a0M", "960\u00a0k", "\u2013", "3.1\u00a0\u00d7\u00a010\u00b9\u2075"),
    *("\u22120.2", "10\u207b\u2075", "41.3\u00a0%"),
]
ASCENDING = [NUMBERS[i] for i in (4, 5, 6, 1, 0, 3, 2)]
DRIVE = """
const table = document.querySelector("table");
const heads = [...table.querySelectorAll("thead th")];
const column = (i) => [...table.querySelectorAll("tbody tr")].map((row) => row.cells[i].textContent);
const seen = [];
const note = () => seen.push([heads.map((head) => head.getAttribute("aria-sort")), column(1)]);
note();
for (let i = 0; i < 3; i++) { heads[1].querySelector("button").click(); note(); }
heads[0].querySelector("button").click();
seen.push(column(0));
seen.push(heads.every((head) => head.querySelector("button").tabIndex === 0));
document.body.append(Object.assign(document.createElement("pre"), { id: "seen", textContent: JSON.stringify(seen) }));
"""
EVIL = "<script>document.title = 'evil'</script>"
MEASURE = """
const scrolled = [...document.querySelectorAll("*")].filter((one) =>
  one.scrollWidth > one.clientWidth + 1 && getComputedStyle(one).overflowX === "auto");
const seen = [document.documentElement.scrollWidth, innerWidth,
  scrolled.every((one) => one.tabIndex === 0 && one.getAttribute("aria-label"))];
parent.postMessage(JSON.stringify(seen), "*");
"""
FRAME = """<!doctype html><title>t</title><iframe src="page.html" width="{width}" height="900" frameborder="0"></iframe>
<script>addEventListener("message", (event) => {{
  document.body.append(Object.assign(document.createElement("pre"), {{ id: "seen", textContent: event.data }}));
}});</script>"""


def in_browser(html: str, drive: str, folder: Path, width: int | None = None) -> str:
    """The DOM of a page after ``drive`` ran in it, the only other script that its policy lets run.

    With ``width``, that of a page around a frame so wide: windows of a browser have a least width.
    """
    if BROWSER is None:
        pytest.skip("no chromium here")
    hashed = base64.b64encode(hashlib.sha256(drive.encode()).digest()).decode()
    html = html.replace("script-src ", f"script-src 'sha256-{hashed}' ")
    page = folder / "page.html"
    page.write_text(html.replace("</body>", f"{EVIL}<script>{drive}</script></body>"))
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}", "--dump-dom"]
    if width is not None:
        page = folder / "frame.html"
        page.write_text(FRAME.format(width=width))
    command += ["--virtual-time-budget=5000", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert "<title>evil" not in done.stdout
    return done.stdout


def told(dom: str) -> Any:
    """What the driving script wrote into the page."""
    found = re.search('<pre id="seen">(.*?)</pre>', dom, re.DOTALL)
    assert found is not None, dom[-2000:]
    return json.loads(unescape(found.group(1)))


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What a page with one table shows while its heads are pressed."""
    rows = [[f"run {i}", value] for i, value in zip((10, 9, 2, 1, 3, 30, 4), NUMBERS, strict=True)]
    table = Table("T", ["run", "value"], rows)
    html = fill(
        "side_by_side.html.j2",
        title="t",
        names=["a"],
        findings=[],
        figures=[],
        results=[],
        notes=[],
        studies=table,
        settings=Table("S", ["s"], []),
        environment=Table("E", ["e"], []),
    )
    answer: list[Any] = told(in_browser(html, DRIVE, tmp_path_factory.mktemp("browser")))
    return answer


@pytest.mark.slow(seconds=5)
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_is_no_wider_than_the_window(make_study: Callable[..., Path], tmp_path: Path, width: int) -> None:
    """On a desk and on a phone only tables scroll sideways; what scrolls can be reached by the keyboard."""
    path = make_study(sizes={"micro-with-a-long-name-" * 4: 98_304, "mini": 393_216})
    html = render(read_study(path), [])
    page, window, reachable = told(in_browser(html, MEASURE, tmp_path, width))
    assert window == width and page <= window
    assert reachable


def test_heads_sort_numbers_as_numbers(seen: list[Any]) -> None:
    """Ascending, descending, as it was: prefixes, powers, signs and percentages by value, a missing one last."""
    start, up, down, again, *_ = seen
    assert start == [[None, None], NUMBERS] == again
    assert up == [[None, "ascending"], ASCENDING]
    assert down == [[None, "descending"], [*ASCENDING[-2::-1], ASCENDING[-1]]]


def test_words_sort_as_people_count(seen: list[Any]) -> None:
    """Run 2 stands before run 10, and every head can be reached by the keyboard."""
    assert seen[4] == [f"run {i}" for i in (1, 2, 3, 4, 9, 10, 30)]
    assert seen[5] is True


def test_the_script_is_the_one_that_the_page_allows(make_study: Callable[..., Path]) -> None:
    """The policy of the page names the hash of its one script, so that no name in a study can run another."""
    html = render(read_study(make_study(sizes={"micro": 98_304}, scratch=False)), [])
    script = (TEMPLATES / "sort.js").read_text()
    assert f"<script>{script}</script>" in html and "</" not in script
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in unescape(html)
