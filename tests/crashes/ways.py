"""How the end comes."""

from enum import StrEnum


class Way(StrEnum):
    """How it ends. A power cut takes what was not synced: everywhere, or from one of the two disks."""

    CRASH = "crash"
    COLD_CRASH = "cold process"
    POWER = "power"
    HOT_POWER = "power, hot disk"
    STATE_POWER = "power, state disk"


POWER = (Way.POWER, Way.HOT_POWER, Way.STATE_POWER)
