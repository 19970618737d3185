"""Whether two policies that played the same episodes differ by more than chance."""


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided p value of the exact test of McNemar, in (0, 1].

    only_first, only_second: episodes that only the one solved, and only the other. Those that both solved, or neither,
    say nothing about a difference.

    If both solve equally often, each discordant episode falls to either with probability 1/2: the p value is twice the
    binomial probability of the smaller count or less, at most 1. McNemar, "Note on the sampling error of the difference
    between correlated proportions or percentages", Psychometrika 12 (1947); the exact conditional form as in Fagerland,
    Lydersen and Laake, "The McNemar test for binary matched-pairs data", BMC Med. Res. Methodol. 13:91 (2013).
    """
    if only_first < 0 or only_second < 0:
        raise ValueError(f"{only_first} and {only_second} are no counts of episodes")
    discordant = only_first + only_second
    ways = tail = 1  # in which none of the discordant episodes falls to the one; exact, since integers do not overflow
    for k in range(min(only_first, only_second)):
        ways = ways * (discordant - k) // (k + 1)
        tail += ways
    return min(1.0, 2 * tail / 2**discordant)
