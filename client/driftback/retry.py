"""How long to wait before a request is tried again."""

import random


def pause_after(failures: int, first: float, longest: float) -> float:
    """Seconds to wait after so many failures in a row, the first of them being number 0.

    The bound doubles from `first` to `longest`. The pause is any from half of `first` to the bound, so that
    clients spread.
    """
    bound = min(longest, first * 2.0 ** min(failures, 16))
    return random.uniform(first / 2, bound)  # noqa: S311 (spreads load, guards nothing)
