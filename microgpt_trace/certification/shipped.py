"""The texts and conversations that come with `certify`."""

from pathlib import Path
from typing import Any

from ..text.json_reading import from_json


def shipped(name: str) -> Any:
    """Return the content of a JSON file in this folder, such as "texts"."""
    return from_json(Path(__file__).with_name(f"{name}.json").read_text(encoding="utf-8"))
