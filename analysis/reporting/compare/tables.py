"""Tables of several studies: what each is, its laws, its scores, and where settings and machines differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from analysis.findings import text
from analysis.findings.series import Target, best_score, noun
from analysis.fit.power_law import PowerLawFit
from analysis.reporting.compare.studies import Named, laws, scores, shared_settings, targets
from analysis.reporting.html.tables import Table
from analysis.study.grouping import CHOSEN
from analysis.study.records import FINISHED


def studies_table(studies: Sequence[Named]) -> Table:
    """A row for each study: its grid, how far it is, its sizes, best scores and cost."""
    measured = targets(studies)
    cells = []
    for one in studies:
        table = one.study.tried
        done = table[table["state"] == FINISHED]
        params = table["params_backbone"].dropna().astype("float64")
        ends = dict.fromkeys(map(text.count, (params.min(), params.max()))) if len(params) else [text.MISSING]
        best = [_best(done[done[CHOSEN]], target) for target in measured]
        cost = [text.power(float(done["flops_train"].sum())), text.count(float(done["wall_seconds"].sum()))]
        unfinished = table.loc[table["state"] != FINISHED, "state"].value_counts().sort_index()
        others = ", ".join(f"{count} {state}" for state, count in unfinished.items()) or text.MISSING
        grid, labels = one.study.grid or text.MISSING, f"{table['label'].nunique()} {noun(one.study)}s"
        cells.append([one.name, grid, others, labels, " to ".join(ends), f"{len(done)} of {len(table)}", *best, *cost])
    head = ["study", "grid", "not finished", "labels", "parameters N", "finished tasks"]
    head += [*(f"best {target.score}" for target in measured), "FLOPs", "seconds"]
    return Table("The studies", head, cells, text_columns=5)


def laws_table(studies: Sequence[Named]) -> Table:
    """A row for each law of each study, or the reason why there is none."""
    cells = []
    for name, one in laws(studies):
        start = [name, f"{one.target.formula} against {one.axis.symbol}"]
        if isinstance(one.fit, PowerLawFit):
            fit = one.fit
            numbers = [text.number(fit.a), text.number(fit.b), text.interval(fit.b_interval), str(fit.n)]
            cells.append([*start, *numbers, text.number(fit.residual_std), ""])
        else:
            cells.append([*start, *[text.MISSING] * 5, one.fit.reason])
    head = ["study", "law", "a", "exponent b", f"{text.LEVEL} interval of b", "n", "residual sd of log error", "remark"]
    note = f"Error = a x^{text.MINUS}b, fitted to the points of one study alone; n counts distinct x."
    return Table("Laws of each study", head, cells, text_columns=2, note=note, words_last=True)


def scores_table(studies: Sequence[Named], target: Target) -> Table:
    """Mean pretrained score of every label, a column for each study."""
    measured = scores(studies, target)
    labels = list(dict.fromkeys(label for own in measured.values() for label in own))
    params = pd.concat([one.study.table[["label", "params_backbone"]] for one in studies]).groupby("label")
    size = params["params_backbone"].median().astype("float64").reindex(labels).fillna(float("inf"))
    ordered = sorted(labels, key=lambda label: (float(size[label]), labels.index(label)))
    nan = float("nan")
    cells = [[label, *(text.percent(own.get(label, nan)) for own in measured.values())] for label in ordered]
    return Table(f"Mean {target.score} of pretrained runs", ["label", *measured], cells)


def settings_table(studies: Sequence[Named]) -> Table:
    """The settings that are fixed within each study and differ between them."""
    return _differences("Settings that differ", {one.name: shared_settings(one.study) for one in studies}, "setting")


def environment_table(studies: Sequence[Named]) -> Table:
    """Devices, commits, FLOPs conventions and package versions that differ between the studies."""
    met: dict[str, dict[str, str]] = {}
    for one in studies:
        own: dict[str, set[str]] = {}
        for result in one.study.results.values():
            facts = {name: result[name] for name in ("device_kind", "device_count", "commit", "flops_convention")}
            for name, value in {**facts, **result["versions"]}.items():
                own.setdefault(str(name), set()).add(str(value))
        met[one.name] = {name: ", ".join(sorted(values)) for name, values in sorted(own.items())}
    return _differences("Environment where it differs", met, "what")


def _differences(title: str, values: Mapping[str, Mapping[str, str]], what: str) -> Table:
    keys = sorted({key for own in values.values() for key in own})
    differing = [key for key in keys if len({own.get(key) for own in values.values() if own}) > 1]
    cells = [[key, *(own.get(key, text.MISSING) for own in values.values())] for key in differing]
    note = "" if cells else "Nothing differs."
    return Table(title, [what, *values], cells, text_columns=1 + len(values), note=note, words_last=True)


def _best(rows: pd.DataFrame, target: Target) -> str:
    best = best_score(rows, target)
    return text.MISSING if best is None else text.percent(best)
