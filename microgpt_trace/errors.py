"""The errors that this package raises on purpose."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from .text.printable import as_message


class MicrogptError(Exception):
    """The base class of all errors that this package raises on purpose. The message is one line without
    control characters. The middle of a very long message is left out.

    `exit_code` is the exit code of the command. 2 means that the request or an input file is wrong.
    """

    exit_code = 2

    def __init__(self, message: str = "") -> None:
        super().__init__(as_message(message))


class InputError(MicrogptError):
    """A text, name, option or hook does not fit the model or the command. `setting` is the field of a config
    that the error is about, or ""."""

    def __init__(self, message: str = "", setting: str = "") -> None:
        super().__init__(message)
        self.setting = setting


class OptionError(InputError):
    """An option of a function or a command is invalid. `template` has the names of parameters in braces, such
    as "{limit}: expected 1 or more, found {found}". The message of the error has these names, and a command
    replaces them by the spellings of its options. `values` are the other names of the template."""

    def __init__(self, template: str, **values: object) -> None:
        self.template, self.values = template, values
        super().__init__(self.spelled({}))

    def spelled(self, spellings: Mapping[str, str]) -> str:
        """Return the message with other names of parameters."""
        return self.template.format_map(_OptionNames({**spellings, **self.values}))


class _OptionNames(dict[str, object]):
    def __missing__(self, name: str) -> str:
        return name


class FileFormatError(MicrogptError):
    """A file is missing, damaged, of an unknown format, or of the wrong shape."""


@contextmanager
def naming(where: object, kind: type[MicrogptError] = InputError) -> Iterator[None]:
    """Put `where` in front of an InputError of the block, and raise it as an error of this kind."""
    try:
        yield
    except InputError as error:
        raise kind(f"{where}: {error}") from error


class RunError(MicrogptError):
    """The request was valid, but the run failed, for example because the disk is full."""

    exit_code = 1


class DivergedError(RunError):
    """A loss in training is not finite."""


class ReaderGone(Exception):
    """The program that reads our output has closed the pipe. The command can stop."""


def check_installed(package: str, user: str) -> None:
    """Raise InputError if a package is not installed. This check does not load the package."""
    from importlib.util import find_spec  # loads threading, which code in the sandbox must not load

    if find_spec(package) is None:
        raise missing(package, user)


def missing(package: str, user: str) -> InputError:
    """Return an error that explains how to install a package. `user` is the beginning of the message, such as
    "--plot draws with"."""
    return InputError(f"{user} the package {package}: python -m pip install {package}")
