"""The clock of the bare loops."""

import time
from collections.abc import Iterator

Moment = tuple[float, float]


def now() -> Moment:
    """The wall time and the processor time of this process, in seconds."""
    return time.perf_counter(), time.process_time()


def line(kind: str, epoch: int, start: Moment) -> str:
    """The line that the frame reads: the seconds of an epoch since a start."""
    seconds, processor = (after - before for after, before in zip(now(), start, strict=True))
    return f"{kind} {epoch}: {seconds:.6f} s, {processor:.6f} s of processor time"


def epochs(number: int) -> Iterator[int]:
    """Count epochs, and print the time of each."""
    for epoch in range(1, number + 1):
        start = now()
        yield epoch
        print(line("epoch", epoch, start), flush=True)
