"""Reads out of a PromQL expression which metrics and labels it asks for; it does not evaluate any."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

_GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_NAME = re.compile(r"(?<![\w.:])([a-zA-Z_:][\w:]*)\s*(\{[^{}]*\})?\s*(\()?")
_MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')
_WORDS = {"and", "or", "unless", "bool", "offset", "Inf", "NaN"}


@dataclass(frozen=True, slots=True)
class Sample:
    """One line of a scrape, without its value."""

    name: str
    labels: dict[str, str] = field(hash=False)


@dataclass(frozen=True, slots=True)
class Selector:
    """`name{label="value"}` in an expression."""

    name: str
    matchers: tuple[tuple[str, str, str], ...]

    def takes(self, sample: Sample) -> bool:
        """Whether it would find the sample. A label of the scraper and a variable fit anything."""
        return sample.name == self.name and all(
            _fits(sample.labels.get(label, ""), sign, value)
            for label, sign, value in self.matchers
            if "$" not in value and label not in SCRAPER
        )


SCRAPER = {"instance", "job"}
"""Labels that Prometheus adds."""


def _fits(have: str, sign: str, value: str) -> bool:
    if sign in ("=", "!="):
        return (have == value) == (sign == "=")
    return bool(re.fullmatch(value, have)) == (sign == "=~")


def selectors(expression: str) -> list[Selector]:
    """Every metric that is asked for."""
    bare = re.sub(r"\[[^\]]*\]", "", _GROUPING.sub("", expression))
    return [
        Selector(name, tuple(_MATCHER.findall(matchers)))
        for name, matchers, call in _NAME.findall(bare)
        if not call and name not in _WORDS
    ]


def groupings(expression: str) -> set[str]:
    """Labels that results are grouped or joined by."""
    return {label.strip() for group in _GROUPING.findall(expression) for label in group.split(",")}


def faults(expression: str, samples: Iterable[Sample]) -> list[str]:
    """What an expression asks for that no sample has, in words."""
    samples = list(samples)
    found = []
    labels: set[str] = set(SCRAPER)
    for selector in selectors(expression):
        same_name = [sample for sample in samples if sample.name == selector.name]
        for sample in same_name:
            labels |= sample.labels.keys()
        if not same_name:
            found.append(f"{selector.name} is not exported")
        elif unknown := {label for label, _, _ in selector.matchers} - SCRAPER - same_name[0].labels.keys():
            found.append(f"{selector.name} has no label {', '.join(sorted(unknown))}")
        elif not any(selector.takes(sample) for sample in same_name):
            found.append(f"{selector.name} never has {selector.matchers}")
    found += [f"nothing there has the label {label}" for label in sorted(groupings(expression) - labels)]
    return found
