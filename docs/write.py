"""Writes the pages that are generated from the code; a test compares them. Run: `uv run python -m docs.write`"""

import json
from pathlib import Path

from docs import call_picture, command_pages, state_machine
from docs.metric_table import table as metric_table
from docs.policy_fields import schema, table

HERE = Path(__file__).parent
DRAWN = "<!-- The rest is written by `python -m docs.write`. -->\n"


def pages() -> dict[str, str]:
    """File name → text."""
    return {
        **command_pages.pages(),
        "call.svg": call_picture.picture(),
        "state-machine.md": state_machine.page(),
        "policy.md": (HERE / "policy.md").read_text().partition(DRAWN)[0] + DRAWN + table() + "\n",
        "observability.md": (HERE / "observability.md").read_text().partition(DRAWN)[0] + DRAWN + metric_table() + "\n",
        "policy.schema.json": json.dumps(schema(), ensure_ascii=False, indent=2, sort_keys=True) + "\n",
    }


def main() -> None:
    for name, text in pages().items():
        (HERE / name).parent.mkdir(exist_ok=True)
        (HERE / name).write_text(text)


if __name__ == "__main__":
    main()
