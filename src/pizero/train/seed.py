"""One seed of several numbers: of a run, of what the random numbers are for, of a step."""

import numpy as np


def mixed(*numbers: int) -> int:
    """64 bits in which every number tells, for torch's generators; the same on every machine."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])
