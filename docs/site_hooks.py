"""Pages of the site that are made of other files: README, the first page, the notebook, and all settings of a run."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

from nepa_scale.config import overrides

ROOT = Path(__file__).resolve().parents[1]
PAGES = {"index.md": "README.md", "contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
NOTEBOOK = Path(__file__).with_name("notebook.ipynb")


def on_files(files: Files, config: Any) -> Files:
    """Add the repository's own documents, with links as they are from within ``docs``, and the notebook as Markdown."""
    for page, source in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        text = re.sub(r"\]\(docs/", "](", text)
        for target, name in PAGES.items():
            text = text.replace(f"]({name}", f"]({target}")
        files.append(File.generated(config, page, content=text))
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    files.append(File.generated(config, "notebook.md", content="\n\n".join(map(_shown, cells))))
    files.append(File.generated(config, "settings.md", content=_settings()))
    return files


def _settings() -> str:
    """What ``nepa-train --help`` says, as a table for each section."""
    sections: dict[str, list[str]] = {"run": [], "model": [], "data": []}  # first
    for mark, key, default, meaning in re.findall(r"^([* ]) ([\w.]+)=(\S*) {2,}(.*)$", overrides.help_text(), re.M):
        value = "null" if default == "NAME" else default
        row = f"| {mark} | `{key}` | `{value}` | {html.escape(meaning).replace('|', ', ')} |"
        sections.setdefault(key.rpartition(".")[0] or "run", []).append(row)
    tables = [
        f"## {name}\n\n| | setting | default | meaning |\n|---|---|---|---|\n" + "\n".join(rows)
        for name, rows in sections.items()
    ]
    about = "What `nepa-train --help` prints. Settings marked * change how the work is done, not its result."
    return "\n\n".join(["# Settings", about, *tables])


def _shown(cell: dict[str, Any]) -> str:
    """A cell of a notebook as Markdown, with its outputs."""
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        return source
    parts = [f"```python\n{source}\n```"]
    for data in (output["data"] for output in cell["outputs"]):
        if "image/png" in data:
            parts.append(f'<img alt="plot" src="data:image/png;base64,{data["image/png"]}">')
        else:
            parts.append(f"```text\n{''.join(data['text/plain'])}\n```")
    return "\n\n".join(parts)
