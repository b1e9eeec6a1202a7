"""Pauses after failures grow, stay within bounds, and spread."""

from driftback.retry import pause_after

FIRST, LONGEST = 0.2, 5.0


def test_pauses_grow_from_the_first_to_the_longest_and_spread() -> None:
    pauses = [[pause_after(failures, FIRST, LONGEST) for _ in range(300)] for failures in range(40)]
    for failures, some in enumerate(pauses):
        bound = min(LONGEST, FIRST * 2**failures)
        assert FIRST / 2 <= min(some) <= max(some) <= bound
        assert max(some) - min(some) > (bound - FIRST / 2) / 2
