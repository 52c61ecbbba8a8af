"""python -m microgpt_trace, and the entry point of `microgpt`."""

import sys


def main() -> None:
    """Load the command line and run it; Ctrl-C while it loads is one line as well."""
    try:
        from .cli import main as run

        run()
    except KeyboardInterrupt:
        if sys.stderr is not None:
            sys.stderr.write("microgpt: interrupted\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
