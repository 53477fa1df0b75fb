"""Runs `quotagate` with a wrong clock: `python -m tests.faults.shifted_gateway <seconds> <words of quotagate>`."""

import sys
import time


def shift(seconds: float) -> None:
    """From now on this process believes that it is later, or earlier, than it is."""
    right_time, right_time_ns = time.time, time.time_ns
    time.time = lambda: right_time() + seconds
    time.time_ns = lambda: right_time_ns() + int(seconds * 1_000_000_000)


if __name__ == "__main__":
    shift(float(sys.argv.pop(1)))
    from quotagate.cli import main

    main()
