"""Settings of objectives: what does not fit together is one line that says what would be right."""

from __future__ import annotations

import pytest

from nepa_scale.config.overrides import parse
from nepa_scale.utils.errors import ConfigError

MASKED = ("pretrain.objective=masked_pixels", "pretrain.attention=bidirectional", "pretrain.mask_ratio=0.75")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (MASKED[:1], "pretrain.attention=causal: pretrain.objective=masked_pixels needs pretrain.attention=bidirect"),
        (MASKED[:2], "pretrain.mask_ratio=0: masks none of the 16 patches"),
        ((*MASKED, "pretrain.shift=false"), "pretrain.shift=false: pretrain.objective=masked_pixels does not use it"),
        (
            ("pretrain.objective=next_pixels", "pretrain.sigreg=1"),
            "pretrain.sigreg=1.0: pretrain.objective=next_pixels",
        ),
        (("pretrain.objective=next_pixel",), "did you mean 'next_pixels'"),
        (("pretrain.temperature=0.2",), "pretrain.temperature=0.2: only pretrain.distance=infonce uses it"),
        (("pretrain.horizon=17",), "pretrain.horizon=17: an image has 16 embeddings to predict; give at most 16"),
        (("pretrain.horizon=2", "pretrain.shift=false"), "pretrain.shift=false predicts no next embedding"),
        (
            ("pretrain.horizon=2", "pretrain.lr_rule=mup", "pretrain.lr_reference=nano"),
            "pretrain.lr_rule=mup: pretrain.horizon above 1 has an output layer",
        ),
        ((*MASKED, "pretrain.milestones={5: {cosine: 0.1}}"), "no measure 'cosine' of pretrain"),
    ],
)
def test_settings_that_do_not_fit_are_one_line(words: tuple[str, ...], complaint: str) -> None:
    """An objective is not given settings that it would ignore, and says what it needs."""
    with pytest.raises(ConfigError) as raised:
        parse(words)
    assert any(complaint in problem for problem in raised.value.problems), raised.value.problems


def test_objectives_are_other_runs() -> None:
    """The default is the run that it was before there were others; each variant is a run of its own."""
    variants = [
        (),
        MASKED,
        ("pretrain.objective=next_pixels",),
        ("pretrain.distance=mse",),
        ("pretrain.distance=infonce",),
        ("pretrain.distance=infonce", "pretrain.temperature=0.2"),
        ("pretrain.horizon=4",),
        ("pretrain.stop_gradient=false", "pretrain.sigreg=0.1"),
    ]
    assert len({parse(words).run_id for words in variants}) == len(variants)
    assert parse(["pretrain.objective=next_embedding"]).run_id == parse([]).run_id
