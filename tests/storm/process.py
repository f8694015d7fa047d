"""An application of a storm as a process; it understands what `tests.exercise.process` understands.

    python -m tests.storm.process ROOT SEED ROLE NOTE

Each answer also has "stalls": how long its calls took.
"""

import sys
import time
from pathlib import Path

from tests.exercise.process import serve
from tests.storm.appending import Appender, Control
from tests.storm.habitual import Everything, Mapper
from tests.storm.listing import Lister
from tests.storm.locking import Locker
from tests.storm.naming import Namer
from tests.storm.orphans import Orphans
from tests.storm.player import Player
from tests.storm.reading import Reader

ROLES: dict[str, type[Player] | type[Mapper] | type[Everything]] = {
    "appender": Appender,
    "control": Control,
    "mapper": Mapper,
    "namer": Namer,
    "orphans": Orphans,
    "reader": Reader,
    "lister": Lister,
    "locker": Locker,
    "everything": Everything,
}


def main(arguments: list[str]) -> None:
    """Until there are no more orders."""
    root, seed, role, note = arguments
    player = ROLES[role](Path(root), seed)
    serve(player, Path(note), lambda: time.sleep(player.pause_s), lambda: {"stalls": player.stalls.to_json()})


if __name__ == "__main__":
    main(sys.argv[1:])
