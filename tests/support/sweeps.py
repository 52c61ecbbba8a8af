"""Which cases of a long list are run every time, which in the sweep too, and which in the whole of it alone:
`pytest -m "not rest"` runs the sweep, `pytest -m ""` all of it.

Tests that only search further for what others prove are marked as the sweep's as a whole.
"""

import pytest


def some_of(cases, every, sweep=1):
    """The cases as parameters: each `every`-th is always run, of the others each `sweep`-th in the sweep."""
    return [case if i % every == 0 else in_sweep(case, whole=i % sweep != 0) for i, case in enumerate(cases)]


def in_sweep(case, whole=False):
    """A parameter, or a tuple of them, for the sweep, or for the whole of it alone."""
    marks = [pytest.mark.sweep, *[pytest.mark.rest] * whole]
    return pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=marks)
