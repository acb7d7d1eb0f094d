"""`python -m cli`: the `orch` command without an installed script."""

from cli.main import main

main()
