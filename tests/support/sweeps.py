"""Choose the cases of a long list that run every time, in the sweep (`pytest -m "not rest"`), or only in the
full sweep (`pytest -m ""`).

Tests that only search longer than other tests belong to the sweep as a whole.
"""

import pytest


def some_of(cases, every, sweep=1):
    """Return parameters: every `every`-th case always runs, and every `sweep`-th of the list in the sweep."""
    return [case if i % every == 0 else in_sweep(case, whole=i % sweep != 0) for i, case in enumerate(cases)]


def in_sweep(case, whole=False):
    """Return a parameter, or a tuple of parameters, for the sweep, or only for the full sweep (`whole`)."""
    marks = [pytest.mark.sweep, *[pytest.mark.rest] * whole]
    return pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=marks)
