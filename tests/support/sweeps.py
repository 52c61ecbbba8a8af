"""Which cases of a long list are run every time, and which in the sweep alone (`pytest -m ""` runs both).

Tests that only search further for what others prove are marked as the sweep's as a whole.
"""

import pytest


def some_of(cases, every):
    """The cases as parameters: each `every`-th is always run, the others are marked as the sweep's."""
    return [case if i % every == 0 else in_sweep(case) for i, case in enumerate(cases)]


def in_sweep(case):
    """A parameter, or a tuple of them, for the sweep."""
    return pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.sweep)
