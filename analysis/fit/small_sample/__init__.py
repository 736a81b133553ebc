"""Estimates and honest intervals for a handful of points; a reason instead, where they cannot carry a law."""

from analysis.fit.small_sample.answers import Interval, NoFit, Prediction
from analysis.fit.small_sample.means import MeanRatio, mean_interval, mean_ratio
from analysis.fit.small_sample.offset_law import OffsetPowerLawFit, fit_offset_power_law
from analysis.fit.small_sample.p_values import p_value
from analysis.fit.small_sample.points import CONFIDENCE, t_quantile
from analysis.fit.small_sample.power_law import PowerLawFit, fit_power_law
from analysis.fit.small_sample.shift import Shift, matched_shift, mean_shift

__all__ = [
    "CONFIDENCE",
    "Interval",
    "MeanRatio",
    "NoFit",
    "OffsetPowerLawFit",
    "PowerLawFit",
    "Prediction",
    "Shift",
    "fit_offset_power_law",
    "fit_power_law",
    "matched_shift",
    "mean_interval",
    "mean_ratio",
    "mean_shift",
    "p_value",
    "t_quantile",
]
