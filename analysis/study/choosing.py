"""Which of the runs that an arm was tried with stands for it: the best on images that were not trained on."""

from __future__ import annotations

from collections.abc import Collection

import pandas as pd

CHOSEN = "chosen"
SCORES = {"classify": "metrics.tuning_top1", "segment": "metrics.tuning_miou"}
"""The column by which runs of each task are chosen."""


def with_chosen(table: pd.DataFrame, tuned: Collection[str], finished: str) -> pd.DataFrame:
    """``table`` with a column ``chosen``: of each arm's runs of a tuned task the best one, of all others every row.

    An arm is one label, start and seed. ``tuned`` are settings with a column ``config.X``; of equally good runs the one
    of the lowest values is chosen. Without any score an arm keeps what is not ``finished``: its runs may still get one.
    """
    chosen = pd.Series(data=True, index=table.index)
    for task, score in SCORES.items():
        keys = [f"config.{key}" for key in tuned if key.startswith(f"{task}.")]
        rows = table[table["task"] == task] if keys else table.iloc[:0]
        rows = rows.assign(**{score: rows[score] if score in rows else float("nan")})
        for _, arm in rows.groupby(["label", "init", _seeds(rows)], dropna=False):
            scored = arm[(arm["state"] == finished) & arm[score].notna()]
            best = scored.sort_values([score, *keys], ascending=[False, *(True for _ in keys)], kind="stable").index[:1]
            chosen.loc[arm.index] = arm.index.isin(best) if len(best) else arm["state"] != finished
    return table.assign(**{CHOSEN: chosen})


def _seeds(rows: pd.DataFrame) -> pd.Series[float]:
    """The seed of every row: its result's, else the plan's, else the only one of its label and start."""
    seeds = rows["seed"].astype("float64")
    if "config.seed" in rows:
        seeds = seeds.fillna(pd.to_numeric(rows["config.seed"]).astype("float64"))
    alike = seeds.groupby([rows["label"], rows["init"]], dropna=False)
    return seeds.where(seeds.notna() | (alike.transform("nunique") != 1), alike.transform("min"))
