"""Pages of the site that are files of the repository: README is the first page, and the notebook is one, too."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

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
    return files


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
