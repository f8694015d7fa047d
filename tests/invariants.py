"""What must hold between catalog, hot directory and bucket whenever nothing is under way."""

import itertools
import os
import stat
from collections import Counter

from tests.assembly import PREFIX, Machine
from tierfs.core.keys import key_of
from tierfs.core.records import Ino, Record
from tierfs.core.residency import TRANSIENT, WITHOUT_HOT_BYTES, Residency, Tier, tier_of
from tierfs.core.snapshot import snapshots_of
from tierfs.engine.inventory import Inventory
from tierfs.engine.numbers import ROOT
from tierfs.stores.hot import identity_of, split


def check_invariants(machine: Machine, *, snapshots: bool = False) -> None:
    """Fail with a sentence where the catalog, the hot directory, the tier or the bucket contradict each other.

    `snapshots`: there may be some in the bucket.
    """
    catalog = machine.catalog
    records = list(catalog.records())
    assert not catalog.check_integrity()
    assert not catalog.intended()
    assert not catalog.doomed()
    for record in records:
        _check_record(machine, record)
    keys = [record.object.key for record in records if record.object]
    assert len(set(keys)) == len(keys), f"two records name one object: {sorted(keys)}"
    buried = {tombstone.key for tombstone in catalog.tombstones()}
    assert not buried & set(keys), f"an object is named and buried: {buried & set(keys)}"
    bodies = {key for key in machine.world.memory.objects if not key.endswith("/")}  # those are directories of others
    bodies -= {key for key in bodies if snapshots and key.startswith(snapshots_of(PREFIX))}
    assert bodies <= set(keys) | buried, f"objects that nobody knows: {bodies - set(keys) - buried}"
    counts = catalog._directories
    assert counts == catalog._count_directories(), "the counters of directories are wrong"
    assert counts.keys() == {split(record.path)[0] for record in records}
    _check_numbers(machine)
    _check_nodes(machine)
    _check_open_files(machine)


async def check_inventory(machine: Machine) -> None:
    """The files and bytes of each tier, as the mount counts them, are those that a walk over the tree finds."""
    inventory = Inventory(machine.tier, machine.daemon, machine.restorer.restores, machine.archiver.releases)
    machine.daemon.look = None
    counted = {tier: (one.files, one.bytes) for tier, one in (await inventory.count()).tiers.items()}
    assert counted == walked(machine)


def walked(machine: Machine) -> dict[str, tuple[int, int]]:
    """Files and bytes by tier, looked at one by one."""
    found = {tier.value: (0, 0) for tier in Tier}
    for path in machine.walk():
        st, record = machine.stat(path).st, machine.tree.find(path).record
        if stat.S_ISREG(st.st_mode):
            seen = record or machine.tier.look(path, machine.hot.lstat(path))
            files, size = found[tier := tier_of(seen.residency)]
            found[tier] = files + 1, size + st.st_size
    return found


def _check_record(machine: Machine, record: Record) -> None:
    st = machine.hot.lstat_or_none(record.path)
    assert record.residency not in TRANSIENT or _is_moving(machine, record), f"nobody moves {record}"
    assert machine.catalog.get(record.path) == record
    assert machine.catalog.get_by_ino(record.ino) == record
    if record.residency in WITHOUT_HOT_BYTES:
        assert st is None, f"hot bytes of a cold file: {record}"
        directory = split(record.path)[0]
        assert stat.S_ISDIR(machine.hot.lstat(directory).st_mode), f"no directory for {record}"
    else:
        assert st is not None, f"no hot bytes: {record}"
        assert stat.S_ISREG(st.st_mode), f"not a file: {record}"
        assert machine.tier.numbers.of(st) == record.ino, f"another node id than {record.ino}: {record.path!r}"
    if record.residency in (Residency.MIRRORED, Residency.COLD, Residency.RESTORING):
        stored = record.object
        assert stored is not None, f"no object: {record}"
        assert record.misplaced or stored.key == key_of(PREFIX, record.path), f"misplaced, and nobody knows: {record}"
        info = machine.world.memory.head(stored.key)
        assert (info.etag, info.size) == (stored.etag, stored.size), f"not the object that is recorded: {record}"
        if record.residency is Residency.MIRRORED and st and identity_of(st) == record.identity:
            body = machine.world.memory.objects[stored.key]
            with open(os.path.join(os.fsencode(machine.world.hot), record.path), "rb") as file:
                assert file.read() == body, f"believed to be identical, and is not: {record}"


def _is_moving(machine: Machine, record: Record) -> bool:
    return bool(machine.archiver.active or machine.restorer.active())


def _check_numbers(machine: Machine) -> None:
    """No two living files have the same node id; hard links have one."""
    seen: dict[Ino, tuple[int, int]] = {}
    for path in machine.walk():
        found = machine.tree.find(path)
        inode = (0, int(found.ino)) if found.record else (1, machine.hot.lstat(path).st_ino)
        assert seen.setdefault(found.ino, inode) == inode, f"node id {found.ino} of {path!r} is given twice"


def _check_nodes(machine: Machine) -> None:
    """Every node has those above it in the table, and nothing stays there for no reason."""
    table = machine.filesystem.nodes._nodes
    above = Counter(
        parent for node in table.values() for parent in [node.parent, *(parent for parent, _ in node.others)]
    )
    above[ROOT] -= 1  # the root is above itself
    assert above.keys() <= table.keys(), "a node without the directory that it is in"
    for ino, node in table.items():
        assert node.children == above[ino], f"{node} has {above[ino]} children"
        assert node.lookups > 0 or node.children > 0, f"nobody needs {node}"


def _check_open_files(machine: Machine) -> None:
    """The counters say what the handles are."""
    files, counted = list(machine.filesystem.files.handles), machine.tier.open_files
    for is_writer, is_virtual in itertools.product((False, True), repeat=2):
        kind = [file for file in files if (file.is_writer, file.is_virtual) == (is_writer, is_virtual)]
        counts = counted._handles(is_writer, is_virtual)
        assert sum(counts.values()) == sum(file.fd is not None for file in kind)
    assert not any(file.users for file in files), "somebody still works with a descriptor"
    if not machine.restorer.active():
        assert sum(counted.objects.values()) == sum(file.stored is not None for file in files)
