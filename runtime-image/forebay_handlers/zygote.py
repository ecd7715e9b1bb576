"""Entry of the handlers' program: `python -I -S zygote.py SOCKET_PATH`.

Only what finds our own modules is here, since a script is compiled at each start. Our folder is put last on the
path for that moment: the standard library comes first, and the user's code never sees it.
"""

import os
import sys


def main() -> None:
    """Serve the runtime at the socket until it goes away; in a forked child, run the user's code."""
    # What the bare interpreter itself stands on. Everything imported later gives way to a user's module of that name.
    essential = frozenset(sys.modules)
    home = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    sys.path.append(home)
    from forebay_handlers import handler_process, supervisor  # noqa: PLC0415 - found only now

    sys.path.remove(home)
    child = supervisor.serve(sys.argv[1])
    if child is not None:
        handler_process.run(child, essential)


if __name__ == "__main__":
    main()
