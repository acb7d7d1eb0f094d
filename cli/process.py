"""What every command does first: become independent of the signals that its starter ignored or blocked."""

import signal


def prepare_signals() -> None:
    """Let SIGINT and SIGTERM do what they usually do.

    A shell script starts `orch … &` with SIGINT ignored; other programs block signals.
    """
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)
    if hasattr(signal, "pthread_sigmask"):  # Windows has none
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))
