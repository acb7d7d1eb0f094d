"""The exit codes of the command line."""

OK = 0
DIFFERS = 1
UNUSABLE = 2
USAGE = 3
BROKEN = 4
LEFT = 5
FAULT = 70
INTERRUPTED = 130
READER_GONE = 141
MEANINGS = {
    OK: "done; nothing is wrong",
    DIFFERS: "a replay diverged (`orch replay`), an agent differs (`orch rerun`) or two recordings do (`orch diff`); "
    "it means nothing else",
    UNUSABLE: "something cannot be read, reached or used: a file, a setting, Redis, the service, the output",
    USAGE: "the command line is wrong",
    BROKEN: "`orch replay --check` found an invariant that does not hold",
    LEFT: "`orch doctor` found something wrong; `orch archive`, `orch purge` and `orch projections rebuild` left "
    "some sessions as they are",
    FAULT: "a fault in orch; the traceback is on standard error, please report it",
    INTERRUPTED: "Ctrl-C before a command was done; `orch serve`, `chat` and `tail` are ended by it with 0",
    READER_GONE: "the program that read standard output has gone, as in `orch show … | head`",
}
"""What each code means, for the documentation."""
