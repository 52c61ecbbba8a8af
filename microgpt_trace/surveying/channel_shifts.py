"""How an event's channels differ between two surveys, as plain data. Shows nothing.

Distances are between what channels add up to over a corpus, not between values token by token: two models
whose values differ at every token may have the same statistics.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..architecture.plan import layer_of
from ..arrays.stats import NOT_FINITE, Array
from ..text.brief import frozen
from .channels import ChannelStatistics
from .divergences import jensen_shannon, normal_divergence, relative_distance, varies
from .meters import bin_edges
from .state import Survey

NAMED = 10  # channels that are named


@frozen
class ChangedChannels:
    """Channels of a sort, dead ones or outliers, that B has and A has not, or A alone: how many, and the
    first of them."""

    appeared: int
    first_appeared: tuple[int, ...]
    vanished: int
    first_vanished: tuple[int, ...]


@frozen
class NormalDistance:
    """KL(A || B) in nats of normal distributions, one for each channel, that have its mean and variance over
    the corpus: the mean over `channels` that vary on both sides, and the channel of the largest.
    `one_sided` vary on one side alone, where the divergence is infinite; those that vary on neither side
    are left out too."""

    mean: float | None
    channels: int
    largest: float | None
    largest_channel: int | None
    one_sided: int


@frozen
class EventShift:
    """An event in two surveys. `same` says that all that both know of it is the same, bit for bit.

    `rms_change` is ||rms_B - rms_A|| / ||rms_A|| over channels and `mean_change` ||mean_B - mean_A|| /
    ||rms_A||; None where no channel has a value on both sides. `channel` is the one whose RMS differs most,
    from `rms_a` to `rms_b`. `magnitudes` is the Jensen-Shannon divergence of all magnitudes, in nats, where
    both counted them, in bins of an eighth of an octave.
    """

    name: str
    kind: str
    layer: int | None
    channels: int
    same: bool
    count_a: int
    count_b: int
    nonfinite_a: int
    nonfinite_b: int
    mean_change: float | None
    rms_change: float | None
    channel: int | None
    rms_a: float | None
    rms_b: float | None
    kl: NormalDistance
    magnitudes: float | None
    dead: ChangedChannels
    outliers: ChangedChannels

    @property
    def distance(self) -> float:
        """What is held against a tolerance: the larger one of the changes, infinite where one side alone has
        values, or has more of them."""
        if (self.count_a, self.nonfinite_a) != (self.count_b, self.nonfinite_b):
            return math.inf
        return max(self.mean_change or 0.0, self.rms_change or 0.0)


def event_shift(a: Survey, b: Survey, name: str, same: bool) -> EventShift:
    """An event that both surveys measured, with as many channels; whether all is the same is known."""
    own_a, own_b = (survey.channels(name) for survey in (a, b))
    known = (own_a.count > 0) & (own_b.count > 0)
    rms_a, rms_b = own_a.rms[known], own_b.rms[known]
    some = bool(rms_a.size)
    channel = int(np.flatnonzero(known)[np.abs(rms_b - rms_a).argmax()]) if some else None
    return EventShift(
        name, a.model.kinds[name], layer_of(name), len(known),
        same, int(own_a.count.sum()), int(own_b.count.sum()),
        int(own_a.nonfinite.sum()), int(own_b.nonfinite.sum()),
        relative_distance(own_a.mean[known], own_b.mean[known], rms_a) if some else None,
        relative_distance(rms_a, rms_b, rms_a) if some else None,
        channel, None if channel is None else float(own_a.rms[channel]),
        None if channel is None else float(own_b.rms[channel]),
        normal_distance(own_a, own_b), _magnitudes(a, b, name),
        _changed(own_a.dead, own_b.dead, known), _changed(own_a.outliers, own_b.outliers, known),
    )  # fmt: skip


@NOT_FINITE
def normal_distance(a: ChannelStatistics, b: ChannelStatistics) -> NormalDistance:
    """The divergence of the channels that vary."""
    one, two = varies(a.variance, a.mean_square), varies(b.variance, b.mean_square)
    both = np.flatnonzero(one & two)
    one_sided = int(np.count_nonzero(one != two))
    if not both.size:
        return NormalDistance(None, 0, None, None, one_sided)
    found = normal_divergence(a.mean[both], a.variance[both], b.mean[both], b.variance[both])
    mean = math.fsum(found.tolist()) / len(found)
    return NormalDistance(mean, len(both), float(found.max()), int(both[found.argmax()]), one_sided)


def differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> set[str]:
    """The events, or what else is measured, of which tallies that both have are not the same, bit for bit."""
    known = a.keys() & b.keys()
    return {n.rpartition("/")[0] for n in known if not _same_arrays(a[n].arrays(), b[n].arrays())}


def _same_arrays(a: Mapping[str, Array], b: Mapping[str, Array]) -> bool:
    if a.keys() != b.keys():
        return False
    return all(a[part].shape == b[part].shape and a[part].tobytes() == b[part].tobytes() for part in a)


def _magnitudes(a: Survey, b: Survey, name: str) -> float | None:
    bins = [survey.tallies.get(f"{name}/magnitudes") for survey in (a, b)]
    if bins[0] is None or bins[1] is None:
        return None
    finite = np.isfinite(bin_edges())
    return jensen_shannon(bins[0].values()[finite], bins[1].values()[finite])


def _changed(a: Array, b: Array, known: Array) -> ChangedChannels:
    """The channels, of those that both sides know, that are in one list alone."""
    there = set(np.flatnonzero(known).tolist())
    of_a, of_b = ({*own.tolist()} & there for own in (a, b))
    new, gone = sorted(of_b - of_a), sorted(of_a - of_b)
    return ChangedChannels(len(new), tuple(new[:NAMED]), len(gone), tuple(gone[:NAMED]))
