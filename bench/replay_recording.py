"""Writes a recording of simulated conversations for bench/compare.py, which runs it in a checkout: FILE EVENTS."""

import sys
from pathlib import Path

from events.codec import encode
from events.envelope import Input
from events.recording import Header
from orchestrator import simulate
from orchestrator.replay.replay import Replayer
from orchestrator.session import REDUCER_VERSION


def main(path: Path, events: int) -> None:
    count, seed = 0, 0
    with path.open("wb") as file:
        file.write(Header(reducer_version=REDUCER_VERSION).model_dump_json().encode() + b"\n")
        while count < events:
            inputs = [encode(event) for event in simulate(seed, replayed=False).log if isinstance(event, Input)]
            replayer = Replayer(Header(derived=False), path.name)
            said: list[bytes] = []
            replayer.listen = lambda _, step, said=said: said.extend(map(encode, step.events))
            replayer.run([line.replace(b"auto_session_%d" % seed, b"session_%d" % seed) for line in inputs])
            file.write(b"".join(line + b"\n" for line in said))
            count, seed = count + len(said), seed + 1


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
