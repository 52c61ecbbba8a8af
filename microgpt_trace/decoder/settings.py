"""Settings: the settings in a model file, with checked types. The keys are those of Hugging Face's
config.json; readers of other formats translate their metadata to these keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import numpy as np

from ..errors import FileFormatError, InputError
from ..text.brief import brief
from ..untrusted_files import is_count
from .problems import Problems

Sizes = Mapping[str, Any]  # the dimensions of a model, by our names
Options = dict[str, Any]  # options of a config, or settings under the keys of config.json
TRANSFORMERS = "the default of transformers, since the config has no value"
WHOLE, COUNT = "a whole number above 0 and below 2^31", "a whole number below 2^31"
POSITIVE = "a positive number below 1e38"
T = TypeVar("T")
MAX_LAYERS = 10_000  # the layer number in the name of a tensor has at most four digits
FLAG, TEXT, OBJECT = "true or false", "text", "an object"


def is_positive(value: Any) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool) and 0 < value < 1e38


FITS: dict[str, Callable[[Any], bool]] = {
    WHOLE: lambda value: is_count(value) and value > 0,
    COUNT: is_count,
    POSITIVE: is_positive,
    FLAG: lambda value: isinstance(value, bool),
    TEXT: lambda value: isinstance(value, str),
    OBJECT: lambda value: isinstance(value, dict),
}


def check_value(key: str, value: Any, kind: str) -> None:
    """Raise InputError if `value` is neither None nor of this `kind`."""
    if value is not None and not FITS[kind](value):
        raise InputError(f"{key}: expected {kind}, found {brief(value)}")


def one_of(what: str, value: Any, names: Iterable[str]) -> str:
    """Return `value`. Raises InputError if `names` does not contain this value."""
    if not isinstance(value, str) or value not in names:
        raise InputError(f"{what} {brief(value)} is not supported; supported: {', '.join(names)}")
    return value


class Settings:
    """The settings in a model file, with checked types. `notes` lists the defaults that were used, `used` the
    keys that were looked up, and `last` the key that was looked up last."""

    def __init__(self, values: Mapping[str, Any], problems: Problems | None = None, prefix: str = "") -> None:
        self.values, self.problems, self.prefix = values, problems or Problems(), prefix
        self.notes, self.used, self.last = self.problems.assumed, set[str](), ""
        self.by_layer: tuple[str, ...] = ()  # the keys whose values may differ from layer to layer

    def reading(self, read: Callable[[], T]) -> T:
        """Return the result of `read`, which reads these settings. An error is a problem of the setting that
        was looked up last. If the problem is noted, `read` is called again without this setting."""
        while True:
            try:
                return read()
            except (InputError, FileFormatError) as error:
                self.values = self.problems.corrected(self.values, self.prefix + self.last, error)

    def has(self, key: str) -> bool:
        """Return True if the file contains the key, even without a value."""
        self.raw(key)
        return self.prefix + key in self.values

    def raw(self, key: str) -> Any | None:
        """Return a setting of any type, or None if missing."""
        self.used.add(key)
        self.last = key
        return self.values.get(self.prefix + key)

    def get(self, key: str, kind: str) -> Any | None:
        """Return a setting, or None if missing. Raises InputError if layers have different values."""
        value = self.raw(key)
        if isinstance(value, np.ndarray):
            if not 0 < value.size <= MAX_LAYERS or (key not in self.by_layer and (value != value[0]).any()):
                raise InputError(f"{self.prefix}{key} differs from layer to layer")
            value = value[0].item()
        check_value(self.prefix + key, value, kind)
        return value

    def require(self, key: str, kind: str) -> Any:
        """Return the value of a setting. Raises InputError if the setting is missing."""
        value = self.get(key, kind)
        if value is None:
            raise InputError(f"'{self.prefix}{key}' is missing")
        return value

    def get_or_default(self, key: str, kind: str, default: Any, why: str = TRANSFORMERS) -> Any:
        """Return the value of a setting, or `default` with a new note (`why`) if the setting is missing."""
        value = self.get(key, kind)
        if value is None:
            shown = f"{default:,.10g}" if is_positive(default) else str(default).lower()
            self.notes.append(f"{key} = {shown} ({why})")
            return default
        return value
