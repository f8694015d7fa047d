"""Cold reads while the bucket is faulty: right bytes in the end, or EIO with a reason that is logged and counted."""

import errno
import random
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.faults import Fault, Kind
from tests.servers import S3Server
from tests.t4_mount.faulty_bucket import BUCKET, CHUNK, Readers, Stage, bucket_server, read_directly, staged
from tests.t4_mount.modes import wait_until

pytestmark = [pytest.mark.mount, pytest.mark.slow]

READERS = 4


def content_of(name: str, size: int = 700_001) -> bytes:
    """Bytes that are nowhere the same as somewhere else."""
    return random.Random(name).randbytes(size)


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with bucket_server() as server:
        yield server


@pytest.fixture(scope="module")
def patient_stage(server: S3Server) -> Iterator[Stage]:
    with staged("--cold-timeout", "2m", server=server) as stage:
        yield stage


@pytest.fixture(scope="module")
def hasty_stage(server: S3Server) -> Iterator[Stage]:
    with staged("--cold-timeout", "1s", server=server) as stage:
        yield stage


@pytest.fixture
def patient(patient_stage: Stage) -> Iterator[Stage]:
    """A mount whose readers wait long."""
    yield patient_stage
    patient_stage.proxy.heal()


@pytest.fixture
def hasty(hasty_stage: Stage) -> Iterator[Stage]:
    """A mount whose readers wait for a second."""
    yield hasty_stage
    hasty_stage.proxy.heal()


PASSING = {
    "error": Fault.refusal(500, "InternalError"),
    "slow-down": Fault.slow_down(),
    "reset": Fault(Kind.RESET),
    "reset-in-body": Fault(Kind.RESET_IN_BODY),
    "truncated": Fault(Kind.TRUNCATE),
    "truncated-at-once": Fault(Kind.TRUNCATE, at=0),
    "black-hole": Fault(Kind.BLACK_HOLE),
    "stalled": Fault(Kind.STALL),
}


@pytest.mark.parametrize("name", PASSING)
def test_a_store_that_fails_for_a_while_gives_the_right_bytes(patient: Stage, name: str) -> None:
    """Several readers of one chunk share its GETs, those that fail and the one that does not."""
    content = content_of(name)
    path = patient.cold(name, content)
    errors = patient.read_errors()
    count = 1 if PASSING[name].kind in (Kind.BLACK_HOLE, Kind.STALL) else 3
    patient.spoil(name, replace(PASSING[name], count=count))
    assert Readers(path, [0] * READERS, len(content)).join() == [content] * READERS
    assert count < patient.gets() < count + READERS
    assert patient.read_errors() == errors
    assert patient.mount.residency(name) == "cold"


@pytest.mark.parametrize("kind", [Kind.CORRUPT, Kind.SHORTEN])
def test_damaged_bytes_on_the_way_are_fetched_again(patient: Stage, kind: Kind) -> None:
    """The CRC of the archive tells, or the range that was announced; nobody sees the wrong byte."""
    content = content_of(kind)
    path = patient.cold(kind, content)
    errors = patient.read_errors()
    patient.spoil(kind, Fault(kind, count=1))
    assert Readers(path, [0] * READERS, len(content)).join() == [content] * READERS
    assert patient.proxy.counts().faults == {kind: 1, "latency": 2}
    assert patient.read_errors() == errors


def test_bytes_that_stay_damaged_are_an_error(patient: Stage) -> None:
    """EIO at once, said; not lost: the next read tries anew. Chunks besides the damaged one are read."""
    content = content_of("rotten", 2 * CHUNK)
    path = patient.cold("rotten", content)
    patient.spoil("rotten", Fault(Kind.CORRUPT, at=CHUNK // 2))
    errors = patient.read_errors()
    assert Readers(path, [CHUNK] * READERS, CHUNK).join() == [errno.EIO] * READERS
    assert patient.read_errors() > errors
    assert "the bytes of chunk 1 are not the ones that were archived" in patient.log()
    assert patient.mount.residency("rotten") == "cold"
    patient.proxy.heal()
    assert read_directly(path, 0, 2 * CHUNK) == content


def test_a_store_that_is_away_and_comes_back(patient: Stage) -> None:
    """Nobody listens: readers wait, the breaker opens and says so, and heals when the store is back."""
    content = content_of("away", CHUNK)
    path = patient.cold("away", content)
    patient.proxy.order(Fault(Kind.REFUSE))
    readers = Readers(path, [0] * READERS, CHUNK)
    wait_until(lambda: patient.mount.status()["breaker"]["reads"]["state"] == "open")
    health = patient.mount.status()["breaker"]["reads"]
    assert health["failures"] >= 5
    assert BUCKET in health["reason"]
    assert health["next_try_ns"] > health["since_ns"] > 0
    assert "reads: the store failed 5 times in a row and is spared" in patient.log()
    assert patient.mount.status()["breaker"]["writes"]["state"] == "closed"
    patient.proxy.heal()
    assert readers.join() == [content] * READERS
    assert patient.mount.status()["breaker"]["reads"]["state"] == "closed"
    assert "reads: the store answers again" in patient.log()


def test_a_store_that_fails_now_and_then(patient: Stage) -> None:
    """A third of all requests meets something else each; a file of many chunks is right, to the last byte."""
    content = content_of("flaky", 24 * CHUNK + 17)
    path = patient.cold("flaky", content)
    kinds = [Fault.slow_down(), Fault(Kind.RESET), Fault(Kind.RESET_IN_BODY), Fault(Kind.TRUNCATE), Fault(Kind.STALL)]
    patient.spoil("flaky", *(replace(kind, probability=0.08) for kind in kinds))
    results = Readers(path, list(range(0, len(content), CHUNK)), CHUNK).join()
    assert sorted(result for result in results if isinstance(result, bytes)) == sorted(
        content[offset : offset + CHUNK] for offset in range(0, len(content), CHUNK)
    )


@pytest.mark.parametrize("name", PASSING)
def test_a_store_that_goes_on_failing_is_an_error_at_the_deadline(hasty: Stage, name: str) -> None:
    """EIO for every reader, counted and logged with the last answer; afterwards the file is read."""
    content = content_of(name)
    path = hasty.cold(name, content)
    errors = hasty.read_errors()
    hasty.spoil(name, PASSING[name])
    assert Readers(path, [0] * READERS, CHUNK).join() == [errno.EIO] * READERS
    assert hasty.read_errors() >= errors + READERS
    assert f"{name}: the store did not answer within 1 s" in hasty.log()
    assert hasty.mount.residency(name) == "cold"
    hasty.proxy.heal()
    wait_until(lambda: Readers(path, [0], CHUNK).join() == [content])


def test_nobody_listens_until_the_deadline(hasty: Stage) -> None:
    """Refused connections end like the rest."""
    content = content_of("refused")
    path = hasty.cold("refused", content)
    hasty.proxy.order(Fault(Kind.REFUSE))
    assert Readers(path, [0] * READERS, CHUNK).join() == [errno.EIO] * READERS
    assert "refused: the store did not answer within 1 s; its last answer was: " in hasty.log()
    hasty.proxy.heal()
    wait_until(lambda: Readers(path, [0], CHUNK).join() == [content])


def test_a_missing_object_is_lost_at_once(patient: Stage) -> None:
    """One request; EIO; `ls` and `status` say so; later opens ask nothing; the others read on."""
    path = patient.cold("gone", content_of("gone"))
    lost = patient.mount.status()["lost"]["files"]
    patient.spoil("gone")
    with patient.server.client() as client:
        key = patient.mount.entry("gone").key
        assert key
        client.delete_object(Bucket=BUCKET, Key=key)
    assert Readers(path, [0] * READERS, CHUNK).join() == [errno.EIO] * READERS
    entry = patient.mount.entry("gone")
    assert (entry.residency, entry.reason) == ("lost", f"its object {key} is gone from the bucket")
    assert patient.mount.status()["lost"] == {"files": lost + 1, "bytes": len(content_of("gone"))}
    assert f"cannot read object {key}" in patient.log()
    assert 1 <= patient.gets() <= READERS
    asked = patient.gets()
    with pytest.raises(OSError, match="Input/output error"):
        path.open()
    assert patient.gets() == asked
    assert path.stat().st_size == len(content_of("gone"))
    path.unlink()
    assert patient.mount.status()["lost"]["files"] == lost


def test_a_refusal_is_an_error_at_once(patient: Stage) -> None:
    """403: no retry; the reason says what to correct; the file is cold, and read once access is given back."""
    content = content_of("denied")
    path = patient.cold("denied", content)
    errors = patient.read_errors()
    patient.spoil("denied", Fault.refusal(403, "AccessDenied"))
    assert Readers(path, [0] * READERS, CHUNK).join() == [errno.EIO] * READERS
    assert patient.read_errors() >= errors + READERS
    assert 1 <= patient.gets() <= READERS
    assert "Access Denied (AccessDenied); check the credentials and the bucket's policy" in patient.log()
    assert patient.mount.residency("denied") == "cold"
    assert patient.mount.status()["breaker"]["reads"]["state"] == "closed"
    patient.proxy.heal()
    assert read_directly(path, 0, CHUNK) == content


@pytest.mark.parametrize("how", ["412", "another ETag"])
def test_an_object_that_was_changed_underneath_is_an_error(patient: Stage, how: str) -> None:
    """412, or a server that ignores If-Match and sends other bytes: EIO at once, never those; not lost."""
    content = content_of(how)
    path = patient.cold(how, content)
    key = patient.mount.entry(how).key
    assert key
    patient.spoil(how, *([Fault.refusal(412, "PreconditionFailed")] if how == "412" else []))
    if how != "412":
        with patient.server.client() as client:
            client.put_object(Bucket=BUCKET, Key=key, Body=content_of("other"))
    assert Readers(path, [0] * READERS, CHUNK).join() == [errno.EIO] * READERS
    assert 1 <= patient.gets() <= READERS
    assert f"cannot read object {key}" in patient.log()
    assert patient.mount.residency(how) == "cold"
    assert [finding.what for finding in patient.mount.check()] == ([] if how == "412" else ["object-changed"])
    if how == "412":
        patient.proxy.heal()
        assert read_directly(path, 0, CHUNK) == content
    path.unlink()
