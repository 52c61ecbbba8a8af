"""Write a map of names as TOML, with the reasons for its lines as comments."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ..grouping import grouped
from ..plans.plan import kind_of
from .suggestion import Evidence, Suggested
from .user_map import OWN, MapEntry, lines_for


class Unplaced(NamedTuple):
    """A tensor that matches no event, with the reason."""

    name: str
    shape: tuple[int, ...]
    reason: str


Assigned = Sequence[tuple[int, Suggested]]  # indices of tensors with their events


def map_as_toml(
    evidence: Evidence, found: Mapping[int, Suggested], unplaced: Sequence[Unplaced], sources: Sequence[str],
    tokens: Sequence[int], notes: Sequence[str],
) -> str:  # fmt: skip
    """Return the map as TOML, with notes as comments. If possible, write one line with {i} for the tensors of
    all layers. Tensors that match no event are listed with the reason. `sources` are the names of all tensors
    of the dump."""
    lines = ["# drafted from names, shapes and sampled values (large values are clipped); check before use"]
    lines += [f"# {note}" for note in notes] + [f"tokens = {[int(token) for token in tokens]}", "[events]"]
    written = [(_entry(evidence, one), _comment(evidence, one)) for one in _lines(evidence, found, sources)]
    width = min(max((len(entry) for entry, _ in written), default=0), 60)
    lines += [f"{entry:<{width}}  # {comment}" for entry, comment in written]
    alike = grouped(unplaced, lambda one: (re.sub("[0-9]+", "{i}", one.name), one.shape, one.reason))
    for (pattern, shape, reason), ones in alike.items():
        name, many = (pattern, f", {len(ones):,} tensors") if len(ones) > 1 else (ones[0].name, "")
        lines.append(f"# not placed: {quoted(name)} {list(shape)}{many}: {reason}")
    lines.append(f"# events: {len(found)} placed; tensors not placed: {len(unplaced)}")
    return "\n".join(lines) + "\n"


def _lines(evidence: Evidence, found: Mapping[int, Suggested], sources: Sequence[str]) -> list[Assigned]:
    """Group the tensors by lines, in order of computation: one line for a pattern with {i} that matches no
    other tensors."""

    def line_of(item: tuple[int, Suggested]) -> tuple[str, str]:
        name = evidence.events[item[1].event]
        return (item[1].pattern, kind_of(name)) if item[1].pattern else (name, "")

    lines: list[Assigned] = []
    in_order = sorted(found.items(), key=lambda item: item[1].event)
    for (pattern, _), members in grouped(in_order, line_of).items():
        row = members[0][0]
        tensor = pattern.removesuffix(evidence.tensors[row].cut)
        matches = len(list(lines_for(MapEntry("", tensor), sources))) if len(members) > 1 else 0
        layouts = {str(evidence.pairs["layout"][at, one.event]) for at, one in members}
        lines += [[one] for one in members] if matches != len(members) or len(layouts) > 1 else [members]
    return lines


def _entry(evidence: Evidence, together: Assigned) -> str:
    row, one = together[0]
    event, source = evidence.events[one.event], quoted("".join(evidence.tensors[row][:2]))
    if len(together) > 1:
        event, source = f"layer{{i}}.{kind_of(event)}", quoted(one.pattern)
    layout = str(evidence.pairs["layout"][row, one.event])
    if evidence.pairs["several"][row, one.event] or layout not in ("TC", "HTS", OWN):
        source = f"{{ from = {source}, layout = {quoted(layout)} }}"
    return f"{quoted(event)} = {source}"


def _comment(evidence: Evidence, together: Assigned) -> str:
    """Describe how well the tensors of a line match its events."""
    pairs = [(evidence.pairs[row, one.event], one.why) for row, one in together]
    agreeing = [float(pair["distance"]) for pair, why in pairs if why == "values"]
    others = [float(pair["distance"]) for pair, why in pairs if why != "values"]
    if len(together) == 1:
        how = f"by {pairs[0][1]}; values differ by {others[0]:.2g}" if others else "values agree"
    else:
        how = f"values agree in {len(agreeing)} of {len(together)} layers"
        how += f", and differ by at most {max(others):.2g} in the others" if others else ""
    how += f", {max(agreeing):.1e}" if not others else ""
    finite = min(float(pair["finite"]) for pair, _ in pairs)
    return how + (f"; {1 - finite:.0%} of the values are not finite" if finite < 1 else "")


def quoted(text: str) -> str:
    """Quote a text as a TOML basic string on one line, with unprintable characters escaped."""
    return "".join(
        c if c.isprintable() else f"\\u{ord(c):04x}" if ord(c) < 0x10000 else f"\\U{ord(c):08x}"
        for c in json.dumps(text, ensure_ascii=False)
    )
