"""How the end comes."""

from enum import StrEnum


class Way(StrEnum):
    """How it ends: for the whole mount, or for one of its processes, after which the mount lives on.

    A power cut takes what was not synced: everywhere, or from one of the two disks.
    """

    CRASH = "crash"
    TAKE_OVER = "take-over"
    COLD_CRASH = "cold process"
    POWER = "power"
    HOT_POWER = "power, hot disk"
    STATE_POWER = "power, state disk"


POWER = (Way.POWER, Way.HOT_POWER, Way.STATE_POWER)
WITHOUT_TAKE_OVER = tuple(way for way in Way if way is not Way.TAKE_OVER)
