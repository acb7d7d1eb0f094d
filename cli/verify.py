"""`orch verify`: checks that files are sound logs, under any reducer version."""

from cli.exits import OK, UNUSABLE
from cli.sources import expand, opened
from cli.terminal import say, words
from events.recording import BadRecordingError
from orchestrator.replay.verify import verify


def run(sources: list[str]) -> int:
    code = OK
    for name in expand(sources):
        try:
            found = verify(*opened(name, keeps_all=True))
        except (BadRecordingError, LookupError, OSError) as error:
            say(f"✗ {words(error)}")
            code = UNUSABLE
            continue
        sign = "✗" if found.problems else "✓"
        print(f"{sign} {name}  {found.events} events  {len(found.sessions)} sessions  sha256:{found.checksum[:16]}")
        for problem in found.problems:
            print(f"  {problem}")
            code = UNUSABLE
    return code
