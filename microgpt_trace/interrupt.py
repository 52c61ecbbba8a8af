"""Ends the process on Ctrl-C. This module imports almost nothing, so that it works while other modules
load."""

import os

EXIT_CODE = 130


def end_at_once(number: int, frame: object) -> None:
    """Handle a signal by ending the process, without the traceback of an interrupted import."""
    os._exit(EXIT_CODE)
