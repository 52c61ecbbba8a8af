"""Packages that some commands need and the program does not: what to say where one is not installed."""

from __future__ import annotations

from importlib.util import find_spec

from .errors import InputError


def check_installed(package: str, what_needs: str) -> None:
    """Raises InputError with the command that installs the package, without loading it."""
    if find_spec(package) is None:
        raise missing(package, what_needs)


def missing(package: str, what_needs: str) -> InputError:
    """The same as an error to raise. The command names the package alone: that works wherever the program was
    installed from."""
    return InputError(f"{what_needs} the package {package}: python -m pip install {package}")
