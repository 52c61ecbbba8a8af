"""Packages that some commands need and the program does not: what to say where one is not installed."""

from __future__ import annotations

from importlib.util import find_spec

from .errors import InputError


def check_installed(package: str, what_needs: str, extra: str = "models") -> None:
    """Raises InputError with the command that installs the package, without loading it."""
    if find_spec(package) is None:
        raise missing(package, what_needs, extra)


def missing(package: str, what_needs: str, extra: str | None = "models") -> InputError:
    """The same as an error to raise; of a package that is in none of our extras where that is None."""
    command = f"python -m pip install {package}"
    if extra:
        command = f"python -m pip install 'microgpt-trace[{extra}]', or {package} alone"
    return InputError(f"{what_needs} the package {package}: {command}")
