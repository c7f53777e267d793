#!/usr/bin/env python3
"""What a message would wait for the bare disk, while something else goes on beside it.

    tests/bench/disk.py FOLDER SECONDS      until SIGTERM; then the waits of the last SECONDS as JSON, in microseconds, on standard output

Appends to a file that was filled ahead, one fdatasync after the other, as a log with group commit does at its best. A message that
comes while one is under way waits for its end and for the next one, which takes it. Messages come here at fixed times, so a slow fdatasync counts for
as long as it takes and not once: a disk whose slowest hundredth part of all calls takes a tenth of the time shows in a tenth of the messages.
"""

import bisect
import json
import os
import signal
import sys
import time
from pathlib import Path

# Bytes of an append, and of the file, which begins again at its end.
APPEND = b"x" * 1024
FILE = 64 << 20
# Seconds from one message to the next.
EVERY = 0.0005


def sync_until_told(folder):
    """When each fdatasync began, and when it was done."""
    ended = False

    def end(*_):
        nonlocal ended
        ended = True

    signal.signal(signal.SIGTERM, end)
    began, done = [], []
    path = Path(folder) / "disk"
    file = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        os.write(file, bytes(FILE))
        os.fsync(file)
        at = 0
        while not ended:
            began.append(time.perf_counter())
            os.pwrite(file, APPEND, at)
            os.fdatasync(file)
            done.append(time.perf_counter())
            at = (at + len(APPEND)) % FILE
    finally:
        os.close(file)
        path.unlink()
    return began, done


def waits(began, done, seconds):
    """Of messages that came at fixed times in the last seconds: until when the fdatasync that began next was done."""
    found, at = [], max(began[0], done[-1] - seconds)
    while (following := bisect.bisect_left(began, at)) < len(done):
        found.append(done[following] - at)
        at += EVERY
    return sorted(found)


def main():
    began, done = sync_until_told(sys.argv[1])
    if not done:
        sys.exit("it was ended before it had begun")
    sorted_waits = waits(began, done, float(sys.argv[2]))

    def quantile(share):
        return round(1e6 * sorted_waits[int(share * (len(sorted_waits) - 1))])

    print(json.dumps({"fdatasyncs": len(done), "p50": quantile(0.5), "p99": quantile(0.99), "p99_9": quantile(0.999)}))


if __name__ == "__main__":
    main()
