"""The long run: `python -m tests.fuzz [--inputs 1000000] [--only policy]`. Exit code 1: something escaped."""

import argparse
import sys
import time

from tests.fuzz.readers import READERS
from tests.fuzz.running import escapes, grows_too_fast, growth


def main() -> int:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--inputs", type=int, default=1_000_000, help="broken inputs for each reader")
    asked.add_argument("--seed", type=int, default=1)
    asked.add_argument("--only", default="", help="this reader alone: " + ", ".join(READERS))
    options = asked.parse_args()
    failed = 0
    for name in [options.only] if options.only else READERS:
        began, found = time.monotonic(), []
        for escape in escapes(name, options.inputs, options.seed):
            found.append(escape)
            print(escape)
            if len(found) == 5:
                break
        slow = [(start, part, whole) for start, part, whole in growth(name) if grows_too_fast(part, whole)]
        for start, part, whole in slow:
            print(f"{name}: {part:.3f} s for an eighth, {whole:.3f} s for the whole of an input that begins {start!r}")
        failed += bool(found or slow)
        took = time.monotonic() - began
        print(f"{'✗' if found or slow else '✓'} {name}: {options.inputs} inputs in {took:.0f} s", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
