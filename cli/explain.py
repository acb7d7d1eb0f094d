"""`orch explain`: what a rule means, what causes it, and what to do."""

from difflib import get_close_matches

from cli.terminal import UsageError
from orchestrator.replay.rules import RULES


def run(rule: str) -> int:
    if not rule:
        for known in RULES.values():
            print(f"{known.id}  {known.name}")
        return 0
    found = RULES.get(rule.upper())
    if found is None:
        close = get_close_matches(rule.upper(), RULES, n=1)
        raise UsageError(f"no rule {rule!r}; {f'did you mean {close[0]}?' if close else '`orch explain` lists them'}")
    print(f"{found.id} {found.name}\n\n{found.meaning}\n\nUsual causes:")
    for cause in found.causes:
        print(f"- {cause}")
    print(f"\n{found.todo}")
    return 0
