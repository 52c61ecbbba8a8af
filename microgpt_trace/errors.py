"""What can go wrong, in the few kinds a caller can act upon, and what to say where a package is not installed
that some commands need and the program does not."""

from .text.printable import as_message


class MicrogptError(Exception):
    """Base of all errors raised on purpose; the message is one line for a person, in which nothing is
    left that a terminal would obey. The middle of a very long one is left out.

    `exit_code` is what the command line ends with: 2, the request or an input file is wrong.
    """

    exit_code = 2

    def __init__(self, message: str = "") -> None:
        super().__init__(as_message(message))


class InputError(MicrogptError):
    """A text, name, option or hook that does not fit the model."""


class FileFormatError(MicrogptError):
    """A file that is missing, foreign, cut short or of the wrong shape."""


class RunError(MicrogptError):
    """The request was right but the run failed: the disk is full, the loss is not finite."""

    exit_code = 1


class DivergedError(RunError):
    """Training met a loss that is not finite."""


class ReaderGone(Exception):
    """The reader of our output has closed its end; there is nobody left to write for."""


def check_installed(package: str, what_needs: str) -> None:
    """Raises InputError with the command that installs the package, without loading it."""
    from importlib.util import find_spec  # which loads threading: foreign code in the sandbox does without

    if find_spec(package) is None:
        raise missing(package, what_needs)


def missing(package: str, what_needs: str) -> InputError:
    """The same as an error to raise. The command names the package alone: that works wherever the program was
    installed from."""
    return InputError(f"{what_needs} the package {package}: python -m pip install {package}")
