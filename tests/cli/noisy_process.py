"""A process of ours that writes more to standard error than a pipe holds, then a word to standard output."""

import sys

if __name__ == "__main__":
    for number in range(2_000):
        sys.stderr.write(f"{number} {'x' * 200}\n")
    sys.stderr.write("the last words")
    sys.stderr.flush()
    sys.stdout.write("done\n")
