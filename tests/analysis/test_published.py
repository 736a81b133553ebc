"""The published numbers are the paper's, complete, and tied to the grids that repeat them."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from analysis.reporting.paper.effects import FILE, headline, of_grid, read_published
from nepa_scale.config import ladder
from nepa_scale.utils.errors import UserError

GRIDS = Path(__file__).resolve().parents[2] / "sweeps" / "conf" / "grid"
ROWS = {"Table 1a": 4, "Table 1b": 6, "Table 1c": 3, "Table 1d": 2, "Table 1e": 2, "Table 2": 13, "Table 3": 10}
ROWS |= {"Table 6": 2, "Table 8": 2, "Table 9": 2, "Figure 4": 8}


def test_every_table_is_complete() -> None:
    """As many rows as the paper prints, all within range, and three failures."""
    table = read_published()
    assert table["table"].value_counts().to_dict() == ROWS
    assert table["score"].dropna().between(0.1, 0.9).all()
    assert int(table["failed"].sum()) == 3 == int(table["score"].isna().sum())


@pytest.mark.parametrize(
    ("table", "chosen", "percent"),
    [
        ("Table 1a", {"label": "no causal mask"}, 73.6),
        ("Table 1b", {"label": "+ QK-norm"}, 81.1),
        ("Table 1c", {"label": "60 %"}, 75.7),
        ("Table 1d", {"label": "trained"}, 73.1),
        ("Table 1e", {"label": "bidirectional"}, 82.5),
        ("Table 2", {"method": "NEPA", "size": "large", "attention": "bidirectional"}, 85.3),
        ("Table 2", {"method": "MAE", "size": "base"}, 83.6),
        ("Table 3", {"method": "NEPA", "size": "base"}, 48.3),
        ("Table 6", {"metric": "linear_mean"}, 14.1),
        ("Table 9", {"note": "SwiGLU"}, 83.8),
        ("Figure 4", {"size": "large", "epochs": 480}, 83.9),
    ],
)
def test_numbers_are_those_printed(table: str, chosen: dict[str, object], percent: float) -> None:
    """Single numbers typed here anew from the paper."""
    rows = read_published()
    rows = rows[rows["table"] == table]
    for column, value in chosen.items():
        rows = rows[rows[column] == value]
    assert rows["percent"].tolist() == [percent]


def test_tables_that_repeat_one_another_agree() -> None:
    """Shared rows of Tables 1b to 1e, and the ends of Figure 4 and Table 2's causal rows, are the same numbers."""
    score = {(row.grid, row.label): row.percent for row in read_published().itertuples()}
    assert score["ablation_masking", "0 %"] == score["ablation_components", "plain ViT"]
    assert score["ablation_freeze", "frozen"] == score["ablation_components", "+ LayerScale"]
    assert score["ablation_attention", "causal"] == score["ablation_components", "+ QK-norm + SwiGLU"]
    causal = headline("top1").query("attention == 'causal'").set_index("size")["percent"]
    longest = of_grid("epochs").sort_values("epochs").groupby("size")["percent"].last()
    assert causal.to_dict() == longest.to_dict()


def test_parameters_are_those_of_the_ladder() -> None:
    """N of the published models is counted as for a study's own."""
    params = read_published().dropna(subset=["params"]).groupby("size")["params"].unique()
    for size in ("base", "large"):
        assert list(params[size]) == [ladder.backbone_params(ladder.architecture(size, 14))]


@pytest.mark.parametrize("path", sorted(GRIDS.glob("ablation_*.yaml")), ids=lambda path: path.stem)
def test_every_point_of_an_ablation_grid_has_its_row(path: Path) -> None:
    """A grid's labels are the paper's rows, in the paper's order, so that a report can set them side by side."""
    points = yaml.safe_load(path.read_text())["points"]
    assert list(points) == of_grid(path.stem)["label"].tolist()


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (",73.6,", ",736,", "line 3: percent is outside"),
        (",73.6,false", ",,false", "line 3: a failed row has no percent"),
        ("no causal mask,full", "no causal mask,ful", "line 3: reference is no label"),
        (",top1,73.6", ",top2,73.6", "line 3: metric is none of"),
        (",73.6,", ",much,", "is no table of published results"),
        ("source,", "origin,", "column source is missing"),
    ],
)
def test_broken_table_is_named(tmp_path: Path, old: str, new: str, problem: str) -> None:
    """A slip of the pen in the file is named with its line, not drawn."""
    path = tmp_path / "published.csv"
    path.write_text(FILE.read_text().replace(old, new, 1))
    with pytest.raises(UserError, match=problem):
        read_published(path)
