"""One spelling of settings that mean the same."""

from __future__ import annotations

import pytest

from analysis.study.spelling import spelt_alike
from nepa_scale.data.preprocessing import canonical

LIST = "classify.label_list"


@pytest.mark.parametrize("text", ["0.5", "0.5,0.5,0.5", "0.1,0.2,0.30", "-0.0", "image", "dataset", "much"])
def test_one_spelling_of_channels_has_one_identity(text: str) -> None:
    """Whatever is written in results means what was given, and equal means have equal spellings."""
    spelt = [str(spelt_alike({0: {"data.mean": given}})[0]["data.mean"]) for given in (text, canonical(text))]
    assert spelt[0] == spelt[1]
    assert canonical(spelt[0]) == canonical(text)


def test_a_relative_path_is_the_only_absolute_one_that_ends_in_it() -> None:
    """Of two lists that it may be, it is neither."""
    paths = {"a": "x/l.txt", "b": "/d/x/l.txt", "c": "./x/../x/l.txt", "d": "m.txt", "e": "/d/m.txt", "f": "/e/m.txt"}
    found = spelt_alike({name: {LIST: path} for name, path in paths.items()})
    assert [found[name][LIST] for name in "abc"] == ["/d/x/l.txt"] * 3
    assert len({found[name][LIST] for name in "def"}) == 3
