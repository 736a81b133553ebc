"""Fits of published data give the published numbers. Needs the folder named by NEPA_REFERENCE_DATA."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize

from analysis.fit.estimate import Fit, Options, compute_optimal, fit_law
from analysis.fit.loss import SQUARED, Loss
from analysis.fit.minimise import multistart
from analysis.isoflop import Allocation, akima_minimum, allocation, parabola_minimum
from analysis.laws.curves import POWER
from analysis.laws.ends import BROKEN
from analysis.laws.surfaces import CHINCHILLA

PLAIN = Options(delta=SQUARED, logarithmic=False, bootstrap=0)


def expected(folder: Path) -> Any:
    """What a data set's folder says of it."""
    return json.loads((folder / "expected.json").read_text())


def close(value: float, wanted: dict[str, Any]) -> bool:
    """Whether ``value`` lies within the tolerance that comes with the published one."""
    allowed = wanted["tol"] * (abs(wanted["value"]) if wanted["kind"] == "rel" else 1)
    return abs(value - wanted["value"]) <= allowed


def fitted(*arguments: Any, **options: Any) -> Fit:
    """A fit that must not be refused."""
    fit = fit_law(*arguments, **options)
    assert isinstance(fit, Fit), fit
    return fit


@pytest.fixture(scope="module")
def epoch(reference_data: Path) -> pd.DataFrame:
    """Epoch's reading of Hoffmann's figure, N, D, C and loss, the 240 points that were used."""
    table = pd.read_csv(reference_data / "chinchilla_epoch" / "svg_extracted_data.csv")
    n, c = table["Model Size"], table["Training FLOP"]
    table = pd.DataFrame({"N": n, "D": c / (6 * n), "C": c, "loss": table["loss"]})
    return table[table["loss"] < table["loss"].nsmallest(len(table)).nlargest(5).iloc[-1]]


def test_epochs_huber_fit_and_its_bootstrap(epoch: pd.DataFrame, reference_data: Path) -> None:
    """Besiroglu et al. 2024: the Huber fit, its objective, and the standard deviations of its bootstrap."""
    published = expected(reference_data / "chinchilla_epoch")
    fit = fitted(CHINCHILLA, epoch[["N", "D"]].to_numpy().T, epoch["loss"], options=Options(bootstrap=2000))
    wanted = dict(published["huber_delta_1e3"])
    assert close(fit.diagnostics.loss, wanted.pop("objective"))
    optimum = compute_optimal(fit, 1e21)
    values = fit.parameters | {"a_opt": optimum.exponent}
    assert all(close(values[name], one) for name, one in wanted.items())
    draws = dict(zip(CHINCHILLA.names, fit.law.natural(fit.resampling.theta).T, strict=True))
    draws["a_opt"] = draws["beta"] / (draws["alpha"] + draws["beta"])
    checks = {name: one for name, one in published["bootstrap_check"].items() if name != "note"}
    assert all(close(float(draws[name].std()), one) for name, one in checks.items())
    assert fit.diagnostics.starts_agreeing == 1 and fit.diagnostics.converged
    for name, (low, high) in published["ci95_published"].items():
        interval = fit.intervals[name]
        assert interval is not None
        assert interval.low < values[name] < interval.high
        assert abs(interval.low - low) < 0.25 * (high - low) and abs(interval.high - high) < 0.25 * (high - low)


def test_the_search_does_not_stop_at_its_start(epoch: pd.DataFrame, reference_data: Path) -> None:
    """scipy's L-BFGS-B with its defaults stays at Hoffmann's estimate, as the published tool-chains do; ours moves."""
    trap = expected(reference_data / "chinchilla_epoch")["traps"]["default_LBFGSB_tol_from_Hoffmann_init"]
    columns, loss = epoch[["N", "D"]].to_numpy().T, epoch["loss"].to_numpy()
    own = Loss(CHINCHILLA, columns, loss, np.ones((1, len(loss))), 1e-3)
    row = np.zeros(1, dtype=int)
    start = np.array([np.log(1.69), np.log(406.4), np.log(410.7), 0.34, 0.28])
    stopped = minimize(lambda theta: float(own(theta[None], row)[0][0] * own.scale), start, method="L-BFGS-B")
    for name, value in zip(CHINCHILLA.names, CHINCHILLA.natural(stopped.x), strict=True):
        assert value == pytest.approx(trap[name], rel=0.03)
    found = multistart(own, start[None])
    assert found.loss < 0.9 * stopped.fun
    assert CHINCHILLA.natural(found.theta)[0] == pytest.approx(1.8172, abs=1e-3)


def test_epochs_headline(epoch: pd.DataFrame, reference_data: Path) -> None:
    """The published estimate is the least-absolute-deviations limit of the Huber fit."""
    wanted = dict(expected(reference_data / "chinchilla_epoch")["headline_delta_to_0"])
    del wanted["note"]
    options = Options(delta=1e-7, bootstrap=0)
    fit = fitted(CHINCHILLA, epoch[["N", "D"]].to_numpy().T, epoch["loss"], options=options)
    values = fit.parameters | {"a_opt": compute_optimal(fit, 1e21).exponent}
    assert all(close(values[name], one) for name, one in wanted.items())


def test_fit_below_1e21(epoch: pd.DataFrame, reference_data: Path) -> None:
    """Least squares of the loss itself on the 217 cheaper points, in millions and billions."""
    wanted = dict(expected(reference_data / "chinchilla_epoch")["vpnls_C_below_1e21"])
    del wanted["note"]
    few = epoch[epoch["C"] < 1e21]
    assert len(few) == 217
    fit = fitted(CHINCHILLA, np.stack([few["N"] / 1e6, few["D"] / 1e9]), few["loss"], options=PLAIN)
    values = fit.parameters | {"a_opt": compute_optimal(fit, 1e3).exponent, "rss": 2 * fit.diagnostics.loss}
    assert all(close(values[name], one) for name, one in wanted.items())


def test_units_do_not_matter(epoch: pd.DataFrame) -> None:
    """Parameters in ones or millions, data in ones or billions: the same exponents and the same floor."""
    raw = fitted(CHINCHILLA, epoch[["N", "D"]].to_numpy().T, epoch["loss"], options=Options(bootstrap=0))
    columns = np.stack([epoch["N"] / 1e6, epoch["D"] / 1e9])
    scaled = fitted(CHINCHILLA, columns, epoch["loss"], options=Options(bootstrap=0))
    for name in ("E", "alpha", "beta"):
        assert scaled.parameters[name] == pytest.approx(raw.parameters[name], rel=1e-5)


def test_llama_3_by_three_approaches(reference_data: Path) -> None:
    """The surface by least squares, no higher than where their search of it stopped, and parabolas."""
    folder = reference_data / "isoflops_openathena"
    published = expected(folder)["llama3_raw_loss"]
    table = pd.read_csv(folder / "isoflops_raw.csv")
    table = table[table["experiment"].str.contains("llama_3") & table["experiment"].str.contains("raw_loss")]
    assert len(table) == published["n"]
    n, d, c, loss = (table[name].to_numpy() for name in ("params", "tokens", "budget", "loss"))
    surface = fitted(CHINCHILLA, np.stack([n, d]), loss, options=PLAIN)
    values = surface.parameters | {"a_opt": compute_optimal(surface, 1e21).exponent}
    assert all(close(values[name], one) for name, one in published["vpnls"].items() if name != "note")
    # Their five-dimensional search of the same loss stopped before its end; ours may not end any higher.
    third = published["approach3"]
    stopped = third["E"] + third["A"] * n ** -third["alpha"] + third["B"] * d ** -third["beta"]
    assert 2 * surface.diagnostics.loss <= ((loss - stopped) ** 2).sum()
    parabolas = allocation(c, n, loss, parabola_minimum)
    assert isinstance(parabolas, Allocation)
    assert close(parabolas.exponent, published["approach2"]["a"])
    assert close(1 - parabolas.exponent, published["approach2"]["b"])


def test_porians_fifteen_exponents(reference_data: Path) -> None:
    """Porian et al. 2024: exponents of the optima given, and of optima found here in the raw points."""
    folder = reference_data / "porian"
    pairs, points = (pd.read_csv(folder / name) for name in ("optimal_pairs.csv", "isoflop_points.csv"))
    keys = ["dataset", "hparams", "warmup", "decay", "param_count", "val"]
    configurations = expected(folder)["configs"]
    assert len(configurations) == 15
    for one in configurations:
        where = {key: one[key] for key in keys}
        given = pairs[(pairs[keys] == pd.Series(where)).all(axis=1)]
        unweighted = fitted(POWER, given[["flops"]].T, given["n"], options=Options(SQUARED, bootstrap=0))
        assert close(-unweighted.parameters["alpha"], one["basic"])
        weights = 1 / given["n_star_std"] ** 2
        weighted = fitted(POWER, given[["flops"]].T, given["n"], weights=weights, options=Options(SQUARED, bootstrap=0))
        assert close(-weighted.parameters["alpha"], one["weighted"])
        raw = points[(points[keys] == pd.Series(where)).all(axis=1)]
        found = allocation(raw["flops"].to_numpy(), raw["params"].to_numpy(), raw["loss"].to_numpy(), akima_minimum)
        assert isinstance(found, Allocation)
        assert abs(found.exponent - one["weighted"]["value"]) <= 0.01
        low, high = one["ci95"]
        assert low <= found.exponent <= high


def test_googles_power_laws_and_wins(reference_data: Path) -> None:
    """Alabdulmohsin et al. 2022: M1's errors to the printed digits, and how often which form wins."""
    folder = reference_data / "alabdulmohsin_benchmark"
    published = expected(folder)
    tables = [pd.read_csv(folder / f"benchmark.{kind}.csv") for kind in ("vision", "lang")]
    table = pd.concat(tables).drop_duplicates(["Domain", "Task", "Model", "Seen Examples"], keep="last")
    reference = pd.read_csv(folder / "reference_M1_M4_per_curve.csv").set_index(["domain", "task", "model"])
    curves = dict(iter(table.groupby(["Domain", "Task", "Model"])))
    assert len(curves) == sum(published["curves"].values())
    own = {}
    for key, curve in curves.items():
        seen, held = curve[curve["Training"] == 1], curve[curve["Training"] == 0]
        fit = fitted(POWER, seen[["Seen Examples"]].T, seen["Loss"], options=Options(SQUARED, bootstrap=0))
        error = np.log(fit.value(held[["Seen Examples"]].T)) - np.log(held["Loss"])
        own[key] = float(np.sqrt((error**2).mean()))
        assert own[key] == pytest.approx(reference.loc[key, "M1_rmse"], rel=1e-5)
    for model, value in published["published_M1_NMT"]["values"].items():
        mine = next(error for (domain, _, name), error in own.items() if domain == "NMT" and name == model)
        assert round(mine, 2) == value
    vision = reference.loc["IC", [f"M{i}_rmse" for i in range(1, 5)]].copy()
    vision["M1_rmse"] = [own["IC", task, model] for task, model in vision.index]
    best = vision.le(vision.min(axis=1) * (1 + 1e-5), axis=0)  # forms that become one another tie
    shares = best.div(best.sum(axis=1), axis=0).mean()
    for name, value in published["reference_win_share_IC"].items():
        assert name == "note" or shares[f"{name}_rmse"] == pytest.approx(value, abs=0.001)


@pytest.mark.slow(seconds=7)
def test_broken_law_without_noise(reference_data: Path) -> None:
    """Caballero et al. 2023: 405 exact points past the break give the truth; 390 before it must not claim to."""
    published = expected(reference_data / "bnsl_addition")
    truth, limits = published["ground_truth"], published["noiseless"]
    theta = np.array([truth[name] if name in ("c0", "c1") else np.log(truth[name]) for name in BROKEN.names])
    x = np.arange(1.0, 4096.0)
    y = np.exp(BROKEN.log_value(theta, x[None])[0])
    options = Options(SQUARED, bootstrap=0)
    fit = fitted(BROKEN, x[None, :405], y[:405], options=options)
    for name, value in truth.items():
        assert fit.parameters[name] == pytest.approx(value, rel=limits["param_rel_tol"])
    error = np.log(fit.value(x[None])) - np.log(y)
    assert np.sqrt((error[405:] ** 2).mean()) <= limits["extrap_rmsle_max"]
    fewer = fitted(BROKEN, x[None, :390], y[:390], options=Options(SQUARED, bootstrap=50))
    assert set(fewer.intervals.values()) == {None}
    assert np.isnan(fewer.predict(x[None, 400:]).low).all()
    assert any("cannot be told apart" in warning for warning in fewer.diagnostics.warnings)


def test_broken_law_on_real_points(reference_data: Path) -> None:
    """The authors' fit of 14 points of four-digit addition, and its error on the three that follow."""
    folder = reference_data / "bnsl_addition"
    wanted = expected(folder)["real17"]
    table = pd.read_csv(folder / "four_digit_addition.csv").sort_values("x")
    x, y = table["x"].to_numpy(float), table["y"].to_numpy(float)
    fit = fitted(BROKEN, x[None, :14], y[:14], options=Options(SQUARED, bootstrap=0))
    error = np.log(fit.value(x[None])) - np.log(y)
    assert np.sqrt((error[14:] ** 2).mean()) <= wanted["rmsle_extrap_max"]
    assert close(float(np.sqrt((error[:14] ** 2).mean())), wanted["rmsle_train"])
    assert all(close(fit.parameters[name], wanted[name]) for name in ("a", "b", "c0", "c1", "d1"))


def test_laions_identities(reference_data: Path) -> None:
    """1,431 runs whose FLOPs are the model's times the samples; six configurations occur twice."""
    folder = reference_data / "laion_clip_mammut_ade20k"
    table = pd.read_csv(folder / "segmentation_results.csv")
    assert np.allclose(table["gflops_total"], table["model_gflops"] * table["samples_seen"], rtol=1e-6)
    table = table[table["namespace"].isin(["clip", "mammut"]) & (table["gflops_total"] >= 1e6)]
    assert table["namespace"].value_counts().to_dict() == expected(folder)["rows"]
