"""The command line; one thin module per command, and what several of them share."""
