"""The errors that are raised on purpose, and the error for an optional package that is not installed."""

from .text.printable import as_message


class MicrogptError(Exception):
    """The base of all errors that are raised on purpose. The message is one line, without control characters;
    the middle of a very long message is left out.

    `exit_code` is the exit code of the command line. 2: the request or an input file is wrong.
    """

    exit_code = 2

    def __init__(self, message: str = "") -> None:
        super().__init__(as_message(message))


class InputError(MicrogptError):
    """A text, name, option or hook does not fit the model or the command."""


class FileFormatError(MicrogptError):
    """A file is missing, damaged, of an unknown format, or of the wrong shape."""


class RunError(MicrogptError):
    """The request was right but the run failed, for example because the disk is full."""

    exit_code = 1


class DivergedError(RunError):
    """A loss in training is not finite."""


class ReaderGone(Exception):
    """The reader of our output has closed its end, so that nothing more needs to be written."""


def check_installed(package: str, user: str) -> None:
    """Raise InputError with the command that installs a package, if it is missing. The package is not
    loaded."""
    from importlib.util import find_spec  # loads threading, which code in the sandbox must do without

    if find_spec(package) is None:
        raise missing(package, user)


def missing(package: str, user: str) -> InputError:
    """Return an error that tells how to install a package. `user` is a clause such as "--plot draws with".
    The command installs the package alone, which works however this program was installed."""
    return InputError(f"{user} the package {package}: python -m pip install {package}")
