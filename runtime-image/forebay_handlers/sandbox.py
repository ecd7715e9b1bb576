"""Entry of the handlers' sandbox: `python -I -S sandbox.py --config FILE`, or `--probe`.

Runs on the platform's own interpreter. It stays above the handlers' program as its parent outside: when it is
killed, or when the platform's supervisor is gone, everything inside ends.
"""

import os
import sys


def main() -> int:
    """Run the handlers' program in a sandbox and give its exit status, or probe what this machine allows."""
    # Last on the path: the standard library comes first, and no name of the platform's can shadow it.
    sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    from forebay_handlers import isolation  # noqa: PLC0415 - found only now

    if sys.argv[1:] == ["--probe"]:
        return isolation.probe()
    return isolation.run(sys.argv[sys.argv.index("--config") + 1])


if __name__ == "__main__":
    sys.exit(main())
