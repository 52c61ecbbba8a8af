"""The packages that text needs and the program does not: what to say where one is not installed."""

from __future__ import annotations

from importlib.util import find_spec

from ..errors import InputError


def check_installed(package: str, what_needs: str) -> None:
    """Raises InputError with the command that installs the package, without loading it."""
    if find_spec(package) is None:
        raise missing(package, what_needs)


def missing(package: str, what_needs: str) -> InputError:
    return InputError(
        f"{what_needs} the package {package}: "
        f"python -m pip install 'microgpt-trace[models]', or {package} alone"
    )
