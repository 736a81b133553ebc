"""Forecasts as plain data, for ``--json``."""

from __future__ import annotations

import math
from typing import Any

from analysis.fit.small_sample import NoFit
from analysis.forecast.estimate import Forecast


def as_json(answers: dict[str, Forecast | NoFit]) -> list[dict[str, Any]]:
    """One entry for every group, in order; a group that cannot be forecast has a reason instead."""
    return [{"group": name or None, **_one(answer)} for name, answer in answers.items()]


def _one(answer: Forecast | NoFit) -> dict[str, Any]:
    if isinstance(answer, NoFit):
        return {"reason": answer.reason}
    return {
        "predictions": [
            {"at": float(at), "value": _finite(y), "interval": [_finite(low), _finite(high)]}
            for at, y, low, high in zip(answer.at, answer.y, answer.low, answer.high, strict=True)
        ],
        "confidence": answer.confidence,
        "shares": answer.shares,
        "beyond": answer.beyond,
        "tested": answer.tested,
        "origins": answer.origins,
        "rolling_error": answer.rolling_error,
        "kept": answer.kept,
        "left_out": answer.left_out,
        "warnings": list(answer.warnings),
    }


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
