"""What commands do first: become independent of the signals and the file limit that their starter left them."""

import signal

MOST_FILES = 65_536


def prepare_signals() -> None:
    """Let SIGINT and SIGTERM do what they usually do.

    A shell script starts `orch … &` with SIGINT ignored; other programs block signals.
    """
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)
    if hasattr(signal, "pthread_sigmask"):  # Windows has none
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))


def raise_file_limit() -> None:
    """Let this process open all the files that it may: a connection is one, a call some, and a shell allows 1,024."""
    import resource  # Windows has none, and other commands run there

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
