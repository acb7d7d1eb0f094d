"""A process of ours that fails with a long traceback, and writes it as slowly as a busy machine lets it."""

import sys
import time
from traceback import format_exc


def deeper(levels: int) -> None:
    if levels % 2:
        deeper(levels - 1)
    elif levels:
        deeper(int(levels - 1))
    else:
        raise RuntimeError("what is wrong")


if __name__ == "__main__":
    try:
        deeper(80)
    except RuntimeError:
        for line in format_exc().splitlines(keepends=True):
            sys.stderr.write(line)
            sys.stderr.flush()
            time.sleep(0.0001)
        sys.exit(1)
