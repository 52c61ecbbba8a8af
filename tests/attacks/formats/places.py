"""Things that are not files, to put in place of a file."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:  # the path of a socket must be short
        sock.bind(os.path.relpath(path))


PLACES: dict[str, Callable[[Path], object]] = {
    "folder": Path.mkdir,
    "loop": lambda path: path.symlink_to(path.name),
    "dangling link": lambda path: path.symlink_to("nowhere"),
    "empty": Path.touch,
    "null": lambda path: path.symlink_to("/dev/null"),
    "zeros": lambda path: path.symlink_to("/dev/zero"),
    "socket": _socket,
    **({"fifo": os.mkfifo} if hasattr(os, "mkfifo") else {}),
}
