"""Ends the process on Ctrl-C. It imports almost nothing, so that it works while everything else is
loading."""

import os

EXIT_CODE = 130


def end_at_once(number: int, frame: object) -> None:
    """Handle a signal by ending the process. Python would print a traceback if an import is interrupted."""
    os._exit(EXIT_CODE)
