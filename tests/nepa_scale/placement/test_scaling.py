"""The command that predicts scaling."""

from __future__ import annotations

import json

import pytest

from nepa_scale.config import overrides
from nepa_scale.placement import scaling


def test_predicted_scaling(capsys: pytest.CaptureFixture[str]) -> None:
    """A line for each number of devices: more of them do more together and less each, from 100 % down."""
    assert scaling.main(["model.size=giant", "devices=8,64,512,1024"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()[2:-1]]
    assert [int(line[0]) for line in lines] == [8, 64, 512, 1024]
    shares = [int(word.rstrip("%")) for line in lines for word in line if word.endswith("%")]
    assert shares[0] == 100
    assert shares == sorted(shares, reverse=True)


def test_loaders_bound_a_step(capsys: pytest.CaptureFixture[str]) -> None:
    """Images that come too slowly are named as what bounds the step."""
    config = overrides.build([*overrides.split_words(scaling.PAPERS), ("data.num_workers", "4")])
    fast, slow = (scaling.rows(config, "h100", [8], rate)[0] for rate in (None, 100.0))
    assert fast.step.bound == "compute"
    assert (slow.step.bound, slow.images_per_second) == ("data", pytest.approx(800))
    assert scaling.main(["devices=8", "data.num_workers=4", "images_per_core=25", "json=true"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"][0]["images_per_second"] == pytest.approx(800)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["device=h1000"], "device=h1000: not one of b200, h200, h100, a100, mi300x; did you mean 'h100'?"),
        (["devices=8,few"], "devices=8,few: expected numbers of GPUs"),
        (["devices=0"], "expected numbers of GPUs"),
        (["devices=7"], "does not divide over 7 devices"),
        (["images_per_core=none"], "images_per_core=none: expected a number"),
        (["model.sise=base"], "did you mean 'model.size'?"),
    ],
)
def test_mistakes(capsys: pytest.CaptureFixture[str], words: list[str], complaint: str) -> None:
    """A mistake is one line and exit code 2."""
    assert scaling.main(words) == 2
    told = capsys.readouterr().err
    assert complaint in told
    assert told.count("\n") == 1
