"""The sheets of attention and similarity maps that pre-training leaves behind, to be carried inside the page."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

from analysis.findings.series import label_order, scales_sizes
from analysis.study.records import FINISHED, Study

NAME = "pictures.png"
MAX_SHEETS = 6
MAX_BYTES = 12_000_000  # of all sheets together; a page of more is slow to open
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Sheet:
    """One picture with its caption and text alternative."""

    uri: str
    caption: str
    alt: str


@dataclass(frozen=True)
class Sheets:
    """The sheets that fit the page, and a sentence for each that does not."""

    shown: tuple[Sheet, ...]
    notes: tuple[str, ...]


def sheets(study: Study) -> Sheets:
    """Read one sheet per label: of too many, those of the largest sizes, or of the first settings."""
    found = _files(study)
    order = [label for label in label_order(study) if label in found]
    kept = order[-MAX_SHEETS:] if scales_sizes(study) else order[:MAX_SHEETS]
    notes = [f"Pictures of {label} are in {_place(study, found[label])}." for label in order if label not in kept]
    shown, total = [], 0
    for label in kept:
        content, place = found[label].read_bytes(), _place(study, found[label])
        total += len(content)
        if not content.startswith(_PNG):
            notes.append(f"{place} is no PNG file; the page leaves it out.")
        elif total > MAX_BYTES:
            notes.append(f"Pictures of {label} are too large for the page; they are in {place}.")
        else:
            shown.append(_sheet(label, content))
    return Sheets(tuple(shown), tuple(notes))


def _files(study: Study) -> dict[str, Path]:
    """{label: file} of the first finished pretraining of each label that has one."""
    rows = study.table[(study.table["task"] == "pretrain") & (study.table["state"] == FINISHED)]
    found: dict[str, Path] = {}
    for label, run_id in rows[["label", "run_id"]].itertuples(index=False, name=None):
        path = study.path / "runs" / run_id / "pretrain" / NAME
        if path.is_file():
            found.setdefault(label, path)
    return found


def _place(study: Study, path: Path) -> str:
    return str(path.relative_to(study.path))


def _sheet(label: str, content: bytes) -> Sheet:
    uri = "data:image/png;base64," + base64.b64encode(content).decode()
    caption = (
        f"{label}: image and query patch, the attention of that patch, and the cosine between the next embedding "
        "predicted from it and that of every patch (as in the paper, Figure 5)."
    )
    alt = (
        f"Attention and similarity maps of {label} after pretraining: rows of validation images, each with its query "
        "patch, the attention of that patch, and the cosine between the predicted next embedding and every patch."
    )
    return Sheet(uri, caption, alt)
