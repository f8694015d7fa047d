"""Residency transparency: whatever tierfs does on its own, the tree looks the same.

`STEPS=100000 pytest tests/t3_model` takes about so many steps; 10,000 of them are the rule.
"""

import os

#: The steps of all heights together; the lower ones are cheap, and take most.
STEPS = int(os.environ.get("STEPS", "10000"))


def examples(percent: int, steps: int) -> int:
    """How many examples of so many steps make a height's share."""
    return max(1, STEPS * percent // 100 // steps)
