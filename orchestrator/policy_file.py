"""Reads a policy from a YAML or JSON file, and explains each mistake in the file."""

import json
import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from orchestrator.marked_file import MarkedFile, MarkedFileError, Place, Problem, read_marked
from orchestrator.policy_schema import allowed, policy_fields
from orchestrator.session.policy import Policy

_LONGEST_QUOTE: Final = 60
_MOST_PROBLEMS: Final = 50
"""Limit of reported problems: a longer list is not read, and each explanation takes time."""
_NAME: Final = re.compile(r"[\w.-]+")


class PolicyFileError(ValueError):
    """A policy file cannot be used. The message names the file and has a line for each problem in it."""


def read_policy(path: Path) -> Policy:
    """The policy in a .yaml, .yml or .json file. Omitted fields have their defaults. Raises PolicyFileError."""
    try:
        file = read_marked(path)
    except MarkedFileError as error:
        raise _error(path, [error.problem]) from error
    try:
        policy = Policy.model_validate(_policy(file.value))
    except ValidationError as error:
        found = error.errors(include_url=False)
        problems = [_problem(file, details) for details in found[:_MOST_PROBLEMS]]
        if more := found[_MOST_PROBLEMS:]:
            problems.append(Problem(f"and {len(more)} more problems"))
        raise _error(path, [*file.repeated[:_MOST_PROBLEMS], *problems]) from error
    if file.repeated:
        raise _error(path, file.repeated[:_MOST_PROBLEMS])
    return policy


def setting_problem(error: ValidationError) -> str:
    """The first problem of a change of policy: `interruption.min_word: there is no such field; did you mean …`."""
    problem = error.errors(include_url=False)[0]
    is_unknown = problem["type"] == "extra_forbidden"
    what = f"there is no such field; {did_you_mean(problem['loc'])}" if is_unknown else problem["msg"]
    return f"{'.'.join(map(str, problem['loc']))}: {what}"


def _policy(value: Any) -> Any:
    """Remove parts whose fields are all commented out, and the editor's `$schema`."""
    if not isinstance(value, dict):
        return {} if value is None else value
    empty = {name for name in Policy.model_fields if value.get(name, ...) is None}
    return {name: part for name, part in value.items() if name not in {"$schema", *empty}}


def _error(path: Path, problems: Sequence[Problem]) -> PolicyFileError:
    lines = [f"the policy in {path} cannot be used:"]
    for problem in sorted(problems, key=lambda problem: problem.line):
        line = f"line {problem.line}: " if problem.line else ""
        place = f"{_path(problem.place)}: " if problem.place else ""
        lines.append(f"  {line}{place}{problem.what}")
    return PolicyFileError("\n".join(lines).encode(errors="backslashreplace").decode())


def _path(place: Place) -> str:
    names = [f"[{step}]" if isinstance(step, int) else f".{_named(step)}" for step in place]
    return "".join(names).removeprefix(".")


def _named(name: str) -> str:
    short = name if len(name) <= _LONGEST_QUOTE else f"{name[:_LONGEST_QUOTE]}…"
    return short if _NAME.fullmatch(name) else json.dumps(short, ensure_ascii=False)


def _problem(file: MarkedFile, details: ErrorDetails) -> Problem:
    place = details["loc"]
    return Problem(_explain(file, details), place, file.line(place))


def _explain(file: MarkedFile, details: ErrorDetails) -> str:
    place, kind, value = details["loc"], details["type"], details["input"]
    if kind == "extra_forbidden":
        return f"there is no such field; {did_you_mean(place)}"
    expected = _expected(place, kind)
    if not expected:
        return details["msg"].removeprefix("Value error, ")
    if kind == "string_type" and value is None:
        return f'expected {expected}, found nothing; an empty text is ""'
    hint = "; put quotes around it" if kind == "string_type" and not isinstance(value, dict | list) else ""
    return f"expected {expected}, found {_found(value, file.written(place))}{hint}"


def _expected(place: Place, kind: str) -> str:
    """Describe the values allowed at a place; empty if the problem is not about the value there."""
    fields = policy_fields()
    is_rule = kind in ("assertion_error", "value_error")
    match place:
        case () if not is_rule:
            return f"the parts of a policy ({', '.join(fields)})"
        case (str(part),) if not is_rule:
            return f"the fields of this part ({', '.join(fields[part])})"
        case (str(part), str(name)) if not is_rule or "anyOf" in fields[part][name]:
            return allowed(name, fields[part][name])
        case (str(part), str(name), int()):
            return allowed(name, next((one["items"] for one in _kinds(fields[part][name]) if "items" in one), {}))
    return ""


def _kinds(schema: dict[str, Any]) -> list[dict[str, Any]]:
    """The alternative schemas of a value."""
    return schema.get("anyOf") or [schema]


def _found(value: Any, written: str | None) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    quoted = written or json.dumps(value, ensure_ascii=False)
    if len(quoted) <= _LONGEST_QUOTE:
        return quoted
    return f"a text of {len(value)} characters" if isinstance(value, str) else f"{quoted[:_LONGEST_QUOTE]}…"


def did_you_mean(place: Place) -> str:
    """Suggest existing names for an unknown name."""
    fields, name = policy_fields(), str(place[-1])
    paths = {f"{part}.{field}": field for part, inner in fields.items() for field in inner}
    beside = list(fields) if len(place) == 1 else list(fields[str(place[0])])
    if name in paths:
        part, _, field = name.partition(".")
        return f"write {field} below {part}"
    elsewhere = [path for path, field in paths.items() if field == name]
    if len(name) > _LONGEST_QUOTE:
        return f"there are {', '.join(beside)}"
    close = get_close_matches(name, beside, n=1)
    if meant := elsewhere or close:
        return f"did you mean {' or '.join(meant)}?"
    if close := get_close_matches(name, paths.values(), n=1):
        return f"did you mean {' or '.join(path for path, field in paths.items() if field == close[0])}?"
    return f"there are {', '.join(beside)}"
