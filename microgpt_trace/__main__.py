"""python -m microgpt_trace, and the entry point of `microgpt`."""

from .interrupt import take_over


def main() -> None:
    """Take over Ctrl-C, then load the command line and run it."""
    take_over()
    from .cli import main as run

    run()


if __name__ == "__main__":
    main()
