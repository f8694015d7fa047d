"""Leaving: everything comes back to the hot tier, and stays there until the mount is taken away."""

from tierfs.core.errors import NotEligible
from tierfs.core.quantities import Size
from tierfs.core.residency import Residency
from tierfs.engine.tier import Tier

#: The pin of the root: it is good for all that is below, survives the worker, and the policy does not archive either.
EVERYTHING = b""


def expect_room(tier: Tier) -> None:
    """NotEligible where the hot tier has no room for all that is cold."""
    tally = tier.catalog.tally()
    counts = [tally[residency] for residency in (Residency.COLD, Residency.RESTORING) if residency in tally]
    files, size = sum(count.files for count in counts), sum(count.bytes for count in counts)
    filesystem = tier.hot.statvfs()
    needed = size + files * filesystem.f_frsize  # the last block of a file is whole
    free = filesystem.f_bavail * filesystem.f_frsize
    if files and needed > free:
        raise NotEligible(
            f"{files} cold files take {_shown(needed)}, and the hot tier has {_shown(free)} free: make room for "
            f"{_shown(needed - free)} more, or restore a part of the tree"
        )


def hold(tier: Tier) -> None:
    """From now on nothing is released, nor archived by the policy, until the root is unpinned."""
    if EVERYTHING not in tier.pins:
        tier.pins.add(EVERYTHING)


def _shown(size: int) -> str:
    """Bytes, in MiB where there are many: rounded up, so that what is asked for is enough."""
    return str(Size(size)) if size < 10 << 20 else f"{-(-size // (1 << 20))}MiB"
