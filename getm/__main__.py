"""The command, as `getm` and as `python -m getm`, from its first moment: a Ctrl-C while it is imported ends it quietly."""

import gc
import signal
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line of this process, and exit."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # there is nothing yet to leave in good order
    gc.disable()  # there is no garbage yet
    from getm import cli  # noqa: PLC0415  # takes a while

    gc.enable()
    cli.main()


if __name__ == "__main__":
    main()
