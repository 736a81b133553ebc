"""Which runs from scratch are the controls of which others: those that are equal in every setting that both use."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pandas as pd

from analysis.study.labels import compared
from analysis.study.records import Study


def settings(study: Study, rows: pd.DataFrame) -> pd.Series[str]:
    """What every one of ``rows`` of one task was run with, spelt out: a control and its partners have the same.

    Pretraining's settings, those of other tasks and what each arm is tuned in have no say in a control, and a setting
    that some results do not record cannot tell runs apart. A row whose result records no settings stands for its label.
    """
    recorded = {
        index: study.results[run_id, task]["config"]
        for index, run_id, task in rows[["run_id", "task"]].itertuples(name=None)
        if study.results.get((run_id, task), {}).get("config")
    }
    keys = compared(recorded.values(), rows["task"], study.tuned)
    spelt = {index: _spelt(config, keys) for index, config in recorded.items()}
    found = [spelt.get(index, f"label {label}") for index, label in rows["label"].items()]
    return pd.Series(found, index=rows.index, dtype="object")


def _spelt(config: Mapping[str, Any], keys: list[str]) -> str:
    return json.dumps([config[key] for key in keys], sort_keys=True)
