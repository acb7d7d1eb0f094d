"""`orch events`: the catalogue of all that can happen, as text, JSON Schema or AsyncAPI."""

import json
from difflib import get_close_matches

from cli.terminal import UsageError
from events.codec import DERIVED, INPUTS
from events.schema import asyncapi, json_schema


def run(name: str, *, schema: bool, as_asyncapi: bool) -> int:
    if schema or as_asyncapi:
        print(json.dumps(json_schema() if schema else asyncapi(), ensure_ascii=False, indent=2, sort_keys=True))
        return 0
    known = INPUTS | DERIVED
    if not name:
        for kind, model in known.items():
            print(f"{kind:24} {'input' if kind in INPUTS else 'derived':8} {(model.__doc__ or '').splitlines()[0]}")
        return 0
    if name.upper() not in known:
        close = get_close_matches(name.upper(), known, n=1)
        raise UsageError(f"no event {name!r}; {f'did you mean {close[0]}?' if close else '`orch events` lists them'}")
    model = known[name.upper()]
    print(f"{name.upper()}\n\n{' '.join((model.__doc__ or '').split())}\n")
    for field, info in model.model_fields.items():
        print(f"  {field:22} {'required' if info.is_required() else f'default {info.default!r}'}")
    return 0
