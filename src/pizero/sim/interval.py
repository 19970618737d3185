"""How sure a success rate is."""

import math

Z_95 = 1.959963984540054
"""The normal distribution's 97.5 % point: two sides leave 5 % out."""


def wilson(successes: int, episodes: int) -> tuple[float, float]:
    """Lower and upper end of the 95 % confidence interval of a success rate, in [0, 1].

    The score interval of Wilson, "Probable inference, the law of succession, and statistical inference", J. Am. Stat.
    Assoc. 22 (1927), equation for the limits; recommended for few episodes by Brown, Cai and DasGupta, "Interval
    estimation for a binomial proportion", Stat. Sci. 16 (2001). Unlike rate +- 1.96 s it is never empty at 0 or 1.
    """
    if not 0 <= successes <= episodes or episodes == 0:
        raise ValueError(f"{successes} successes in {episodes} episodes is no rate")
    rate, z2 = successes / episodes, Z_95**2
    centre = (rate + z2 / (2 * episodes)) / (1 + z2 / episodes)
    half = Z_95 / (1 + z2 / episodes) * math.sqrt(rate * (1 - rate) / episodes + z2 / (4 * episodes**2))
    low = centre - half if successes > 0 else 0.0  # exact at the ends, not 1e-17 off
    high = centre + half if successes < episodes else 1.0
    return low, high
