"""The entry point of `microgpt` and of `python -m microgpt_trace`."""

import signal

from .interrupt import end_at_once


def main() -> None:
    """Let Ctrl-C end the process at once and without a message. Then load and run the command line."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, end_at_once)
    from .cli import main as run

    run()


if __name__ == "__main__":
    main()
