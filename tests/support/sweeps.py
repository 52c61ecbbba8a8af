"""Choose the cases of a long list that run every time. The others run in the sweep (`pytest -m "not rest"`),
which draws some of them for each commit, or in the full sweep (`pytest -m ""`).

Tests that only search longer than other tests belong to the sweep as a whole.
"""

import subprocess
from math import prod
from zlib import crc32

import pytest


def some_of(cases, every, sweep=3):
    """Return parameters: every `every`-th case always runs, and one in `sweep` of the others in the sweep."""
    return [case if i % every == 0 else in_sweep(case, one_in=sweep) for i, case in enumerate(cases)]


def in_sweep(case, one_in=3, whole=False):
    """Return a parameter, or a tuple of parameters, for one in some sweeps, or for full sweeps (`whole`)."""
    marks = [pytest.mark.sweep(one_in), *[pytest.mark.rest] * whole]
    return pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=marks)


def current_commit():
    """Return the short name of the current commit, which draws the sweep, or "none" without git."""
    try:
        done = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True)
    except OSError:
        return "none"
    return done.stdout.strip() or "none"


def leave_out_of_sweep(items, draw):
    """Mark as `rest` the cases of sweeps that are not drawn. The shares of several parameters multiply."""
    for item in items:
        one_in = prod(number for mark in item.iter_markers("sweep") for number in mark.args)
        if crc32(f"{draw} {item.nodeid}".encode()) % one_in:
            item.add_marker("rest")
