"""Writes the generated dashboards and alert rules; a test compares them. Run: `uv run python -m deploy.write`"""

import json
from pathlib import Path

import yaml

from deploy.alerts import rules
from deploy.dashboards import BOARDS, board

HERE = Path(__file__).parent
DRAWN = "# Written by `python -m deploy.write`.\n"


def files() -> dict[str, str]:
    """File name → text."""
    boards = {f"grafana/dashboards/{name}.json": json.dumps(board(name), indent=2) + "\n" for name in BOARDS}
    return boards | {"prometheus/rules.yaml": DRAWN + yaml.safe_dump(rules(), sort_keys=False, width=200)}


def main() -> None:
    for name, text in files().items():
        (HERE / name).write_text(text)


if __name__ == "__main__":
    main()
