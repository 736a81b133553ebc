"""What rests on something in common is one group."""

from __future__ import annotations

from analysis.findings.pairing import joined


def test_labels_are_joined_through_others() -> None:
    """``c`` has a control in common with ``a`` and weights with ``b``; what rests on nothing known stands alone."""
    groups = joined({"a": {"x"}, "b": {"y"}, "c": {"x", "y"}, "d": {"z"}, "e": set(), "f": set()})
    assert list(groups.index) == list("abcdef")
    assert groups[["a", "b", "c"]].nunique() == 1
    assert groups.nunique() == 4


def test_nothing_is_no_group() -> None:
    """A study of which nothing has finished."""
    assert joined({}).empty
