"""``fix=``, ``tie=`` and ``bound=``: what somebody wants of the parameters of a law, read from arguments."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from analysis.laws import LAWS
from analysis.laws.law import Law, Parameter
from analysis.laws.restrictions import Restrictions, restricted
from analysis.study.columns import LARGEST
from nepa_scale.utils.arguments import option
from nepa_scale.utils.errors import UserError, nearest

Bounds = tuple[float, float]


@dataclass(frozen=True)
class Asked:
    """What is asked of one law: ``NAME=NUMBER``, ``NAME=NAME``, and ``NAME<=NUMBER`` or ``NAME>=NUMBER``."""

    fixes: Sequence[str] = ()
    ties: Sequence[str] = ()
    bounds: Sequence[str] = ()

    def of(self, law: Law) -> Law:
        """``law`` restricted as asked. Raises ``UserError`` naming the flag and what would be right."""
        fixed = self._fixed(law)
        groups = self._groups(law)
        for group in groups:
            _alike(law, group)
            for name in group:
                for other in group:
                    if name in fixed and fixed.setdefault(other, fixed[name]) != fixed[name]:
                        values = f"{name} is fixed at {fixed[name]:g} and {other} at {fixed[other]:g}"
                        raise UserError(f"tie={'='.join(group)}: {values}")
        tied = {name: group[0] for group in groups for name in group[1:] if name not in fixed}
        bounds = self._bounds(law)
        _possible(bounds, fixed, tied)
        if len(fixed) == len(law.names):
            raise UserError(f"fix={law.names[-1]}: every parameter of law '{law.name}' is fixed; leave one to fit")
        return restricted(
            law, Restrictions(fixed, tied, {name: own for name, own in bounds.items() if name not in fixed})
        )

    def _fixed(self, law: Law) -> dict[str, float]:
        fixed: dict[str, float] = {}
        for words in _split(self.fixes):
            name, sign, value = words.partition("=")
            if not sign:
                raise UserError(f"fix={words}: give NAME=NUMBER, for example {law.names[0]}=0.1")
            parameter = _parameter(law, name.strip(), f"fix={words}")
            number = _number(value, f"fix={words}")
            if parameter.positive and number < 0:
                raise UserError(f"fix={words}: {parameter.name} of law '{law.name}' is not below 0")
            if fixed.setdefault(parameter.name, number) != number:
                raise UserError(f"fix={words}: {parameter.name} is fixed at {fixed[parameter.name]:g} already")
        return fixed

    def _groups(self, law: Law) -> list[tuple[str, ...]]:
        """Names that are tied to one another, each group in the order of the law."""
        groups: list[set[str]] = []
        for words in _split(self.ties):
            names = [name.strip() for name in words.split("=")]
            if len(names) < 2:
                raise UserError(f"tie={words}: give NAME=NAME, for example {'='.join(law.names[-2:])}")
            together = {_parameter(law, name, f"tie={words}").name for name in names}
            if len(together) < len(names):
                raise UserError(f"tie={words}: a parameter is equal to itself; name another")
            apart = [group for group in groups if not group & together]
            groups = [*apart, together.union(*(group for group in groups if group & together))]
        return [tuple(sorted(group, key=law.names.index)) for group in groups]

    def _bounds(self, law: Law) -> dict[str, Bounds]:
        bounds: dict[str, Bounds] = {}
        for words in _split(self.bounds):
            parts = re.fullmatch(r"\s*([^<>=\s]+)\s*(<=|>=)\s*([^<>=]+)", words)
            if parts is None:
                raise UserError(f"bound={words}: give NAME<=NUMBER or NAME>=NUMBER, in quotes for the shell")
            name, sign, value = parts.groups()
            parameter = _parameter(law, name, f"bound={words}")
            number = _number(value, f"bound={words}")
            low, high = bounds.get(name, (-math.inf, math.inf))
            low, high = (low, min(high, number)) if sign == "<=" else (max(low, number), high)
            if parameter.positive and high <= 0:
                raise UserError(f"bound={words}: {name} of law '{law.name}' is above 0; fix={name}=0 leaves it out")
            bounds[name] = low, high
        return bounds


@dataclass(frozen=True)
class RestrictingSettings:
    """What is wanted of parameters, whose NAME is LINK.NAME in a chain, with LINK first, second or direct."""

    fix: tuple[str, ...] = option("hold a parameter at a number", (), form="NAME=NUMBER")
    tie: tuple[str, ...] = option("let parameters of one unit have one value", (), form="NAME=NAME")
    bound: tuple[str, ...] = option(
        "keep a parameter at or below a number, or with >= at or above it", (), form="NAME<=NUMBER"
    )


def asked(given: RestrictingSettings) -> Asked:
    """What the three flags say."""
    return Asked(given.fix, given.tie, given.bound)


def asked_of_links(given: RestrictingSettings, links: Iterable[str]) -> Mapping[str, Asked]:
    """The same for each of ``links``, where a parameter is called LINK.NAME. Raises ``UserError``."""
    links = tuple(links)
    asked: dict[str, dict[str, list[str]]] = {link: {"fix": [], "tie": [], "bound": []} for link in links}
    for flag in ("fix", "tie", "bound"):
        for words in _split(getattr(given, flag)):
            prefixes = {name.partition(".")[0].strip() for name in re.findall(r"[A-Za-z]\w*\s*\.", words)}
            link = prefixes.pop() if len(prefixes) == 1 else ""
            if link not in links:
                raise UserError(f"{flag}={words}: name parameters of one law as LINK.NAME, LINK of {', '.join(links)}")
            asked[link][flag].append(re.sub(rf"\b{link}\s*\.", "", words))
    return {link: Asked(own["fix"], own["tie"], own["bound"]) for link, own in asked.items()}


def _split(lists: Sequence[str]) -> list[str]:
    return [words.strip() for one in lists for words in one.split(",")]


def _parameter(law: Law, name: str, words: str) -> Parameter:
    if name not in law.names:
        others = [one.name for one in LAWS.values() if name in one.names and one.variables == law.variables]
        hint = f"; laws that have it: {', '.join(others)}" if others else ""
        raise UserError(
            f"{words}: law '{law.name}' has no parameter '{name}'{nearest(name, law.names)} "
            f"(it has {', '.join(law.names)}{hint})"
        )
    return law.parameters[law.names.index(name)]


def _number(value: str, words: str) -> float:
    try:
        number = float(value if value.isascii() and "_" not in value else "")
    except ValueError:
        raise UserError(f"{words}: '{value.strip()}' is not a number") from None
    if not abs(number) <= LARGEST:
        raise UserError(f"{words}: must be from {-LARGEST:g} to {LARGEST:g}")
    return number


def _alike(law: Law, group: tuple[str, ...]) -> None:
    """Raises ``UserError`` for parameters that cannot be equal whatever the units of the table are."""
    first, *others = (law.parameters[law.names.index(name)] for name in group)
    for other in others:
        if other.unit != first.unit:
            units = f"{first.name} has the unit {first.unit or '1'}, {other.name} the unit {other.unit or '1'}"
            raise UserError(f"tie={'='.join(group)}: {units}; only parameters of one unit can be tied")
        if other.positive != first.positive:
            above, free = (first, other) if first.positive else (other, first)
            raise UserError(f"tie={'='.join(group)}: {above.name} is above 0 by the form, {free.name} is not")


def _possible(bounds: Mapping[str, Bounds], fixed: Mapping[str, float], tied: Mapping[str, str]) -> None:
    """Raises ``UserError`` where nothing meets ``bounds``."""
    together: dict[str, Bounds] = {}
    for name, (low, high) in bounds.items():
        if name in fixed and not low <= fixed[name] <= high:
            side = f"{name}>={low:g}" if fixed[name] < low else f"{name}<={high:g}"
            raise UserError(f"bound={side}: {name} is fixed at {fixed[name]:g}")
        head = tied.get(name, name)
        least, most = together.get(head, (-math.inf, math.inf))
        together[head] = least, most = max(low, least), min(high, most)
        if name not in fixed and least >= most:
            what = f"fix={head}={least:g} holds it there" if least == most else "nothing is both"
            raise UserError(f"bound={head}>={least:g} and bound={head}<={most:g}: {what}")
