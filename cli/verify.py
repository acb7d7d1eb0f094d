"""`orch verify`: whether files are sound logs, whatever the rules of their time were."""

from cli.sources import expand, opened
from cli.terminal import say
from events.recording import BadRecordingError
from orchestrator.replay.verify import verify

SOUND, UNSOUND = 0, 2


def run(sources: list[str]) -> int:
    code = SOUND
    for name in expand(sources):
        try:
            found = verify(*opened(name))
        except (BadRecordingError, LookupError, OSError) as error:
            say(f"✗ {error}")
            code = UNSOUND
            continue
        sign = "✗" if found.problems else "✓"
        print(f"{sign} {name}  {found.events} events  {len(found.sessions)} sessions  sha256:{found.checksum[:16]}")
        for problem in found.problems:
            print(f"  {problem}")
            code = UNSOUND
    return code
