"""Prints the events and parameters that --show names, in full or in part."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ..arrays.stats import Array
from ..models.language_model import LanguageModel
from ..plans.plan import over_tokens
from ..render.arrays import MAX_ROWS, Selection, array_section
from ..render.sections import Section
from ..selection.parts import part_of
from ..selection.sites import Part, Site, parse_site
from ..tracing.result import Trace


def shown_events(model: LanguageModel, names: Sequence[str]) -> list[str]:
    """Return the events and parts of events that --show names. Raises InputError if a parameter does not have
    a selected part. Parts of events are checked later, when the length of the text is known."""
    events = []
    for site, name in _sites(model, names):
        if name not in model.plan:
            part_of(model, site, name, 0, ())
        if name in model.hooks.specs:
            events.append(f"{name}{site.place}")
    return events


def array_sections(result: Trace, model: LanguageModel, names: Sequence[str]) -> Iterator[Section]:
    """Yield a section for each array in the order of `names`, followed by the section of its gradient."""
    predicted, length = [prediction.position for prediction in result.predictions], len(result.input.tokens)
    for site, name in _sites(model, names):
        part = part_of(model, site, name, length, predicted)
        labels = result.input.labels
        if over_tokens(name):
            labels = tuple(labels[position] for position in predicted)
        if name in model.config.shapes():
            yield array_section(name, _of_parameter(model, name, part, site.place), model, labels)
        scalar = result.scalar.name if result.scalar else "loss"
        arrays = {"": result.arrays.get(("forward", name)), scalar: result.arrays.get(("backward", name))}
        more = zip(result.more_gradients, result.more_arrays, strict=True)
        arrays |= {own.scalar.name: kept.get(name) for own, kept in more}
        for of, array in arrays.items():
            if array is not None:
                rows = predicted if over_tokens(name) else range(array.shape[-2] if array.ndim > 1 else 0)
                indices = part.indices(array.shape, rows)
                selection = Selection(array[np.ix_(*indices)], array.shape, indices, site.place)
                yield array_section(name, selection, model, labels, of and f"d {of} / d {name}")


def _sites(model: LanguageModel, names: Sequence[str]) -> Iterator[tuple[Site, str]]:
    """For each site in `names`, yield the site with each event or parameter that matches the site."""
    known = list(dict.fromkeys([*model.hooks.specs, *model.config.shapes()]))
    for site in map(parse_site, names):
        for name in site.names(known):
            yield site, name


def _of_parameter(model: LanguageModel, name: str, part: Part, place: str) -> Selection:
    """Return the selected rows of a parameter. Only the selected rows are read from the model file."""
    shape = model.config.shapes()[name]
    indices = part.indices(shape, range(shape[-2:][0]))
    if len(shape) == 1:
        return Selection(model.parameter(name)[np.array(indices[0])], shape, indices, place)
    first = np.array(indices[0][:MAX_ROWS])
    rows: Array = model.parameter(name, first) if model.tensors else model.parameter(name)[first]
    return Selection(rows[np.ix_(range(len(rows)), *indices[1:])], shape, indices, place)
