"""How Python looks for objects that hold each other: seldom, for the agent's have no cycles, and a little at a time.

The youngest are looked at after so many more were made than went, by number. Where objects are replaced, and old ones
go as new ones come, those young by then are many more: at 50,000 a look took 60 ms, in which no pod got its rules.
"""

from __future__ import annotations

import gc


def collect_seldom() -> None:
    """Leave out what is there now, which stays, and look at the rest as said above. A fifth less CPU for routes."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(5_000, 1_000, 100)
