"""The cold tier of a mount: reached, allowed, able, free to be written to, and fast enough."""

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from tierfs.cold import s3_settings
from tierfs.core.diagnosis import (
    Diagnosis,
    Verdict,
    judge_lease,
    judge_right,
    judge_speed,
)
from tierfs.core.errors import AccessDenied, BucketMissing, StoreError, TierfsError
from tierfs.core.lease import KEY, Found
from tierfs.doctor.examination import Diagnoses
from tierfs.doctor.network import reach
from tierfs.doctor.patient import Patient
from tierfs.doctor.places import room_of
from tierfs.stores.address import StoreAddress, parse_store
from tierfs.stores.directory_layout import RESERVED
from tierfs.stores.directory_lease import DirectoryLeasePlace
from tierfs.stores.identity import identity_of

if TYPE_CHECKING:
    from tierfs.stores.s3_examined import S3Examined

_ELSEWHERE = ("us-east-1", "aws-global")  # what boto3 signs for when nobody names a region
_HOW_CREDENTIALS = (
    "let boto3 find them: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, ~/.aws, or the role of the "
    "instance; a service has another environment than a shell"
)


def examine_cold_tier(patient: Patient) -> Diagnoses:
    """The store of the mount that is meant, if there is one. It is left as it was."""
    if patient.request is None:
        return
    address = parse_store(patient.request.store_url)
    yield from _directory(address, patient) if address.kind == "file" else _bucket(address, patient)


def _bucket(address: StoreAddress, patient: Patient) -> Iterator[Diagnosis]:
    # boto3 costs a third of a second to import: only those who need it pay.
    from tierfs.stores.s3_examined import S3Examined

    try:
        bucket = S3Examined(s3_settings(address, patient.settings))
    except TierfsError as error:
        remedy = "correct endpoint_url and region"
        yield Diagnosis("endpoint", Verdict.PROBLEM, str(error), "nothing can be asked", remedy)
        return
    try:
        if (yield from reach(bucket.endpoint, patient.settings.timeout.seconds)):
            try:
                yield from _asked(bucket, patient)
            except StoreError as error:
                yield _refused(error)
    finally:
        bucket.close()


def _asked(bucket: "S3Examined", patient: Patient) -> Iterator[Diagnosis]:
    """What requests tell, in the order in which one makes sense after the other. StoreError."""
    found = bucket.credentials()
    if found is None:
        yield Diagnosis(
            "credentials", Verdict.PROBLEM, "boto3 finds none", "the store refuses everything", _HOW_CREDENTIALS
        )
        return
    try:
        bucket.look()
    except AccessDenied as error:
        yield Diagnosis(
            "credentials",
            Verdict.PROBLEM,
            f"from {found}: {error}",
            "the store refuses everything",
            f"correct them; boto3 takes the first that it finds. {_HOW_CREDENTIALS[0].upper()}{_HOW_CREDENTIALS[1:]}",
        )
        return
    yield Diagnosis("credentials", Verdict.OK, f"from {found}")
    yield _region(bucket, patient)
    refused: set[str] = set()
    with closing(bucket.rights()) as rights:  # who stops listening has it take back what it has written
        for right in rights:
            refused |= {right.action} if right.refusal else set()
            yield judge_right(right)
    if not refused:  # else it would say the same, less well
        yield from _abilities(bucket.shortcomings())
    if "s3:GetObject" not in refused:
        yield _lease(bucket.lease(), patient)
    if not refused and not patient.is_quick and not patient.settings.read_only:
        speed = bucket.speed()
        yield judge_speed(speed.answer_s, speed.up, speed.down)


def _abilities(shortcomings: tuple[str, ...]) -> Iterator[Diagnosis]:
    for sentence in shortcomings:
        meaning = "tierfs works around it; what it costs is in the README, under S3 servers"
        yield Diagnosis("abilities", Verdict.WARNING, sentence, meaning, "nothing, or use another server")
    if not shortcomings:
        yield Diagnosis("abilities", Verdict.OK, "checksums, conditional writes, ranges, parts, copies, metadata")


def _region(bucket: "S3Examined", patient: Patient) -> Diagnosis:
    home, asked = bucket.home(), bucket.region
    is_aws = patient.settings.endpoint_url is None and "amazonaws." in bucket.endpoint
    if not is_aws or home is None or home == asked or (home in _ELSEWHERE and asked in _ELSEWHERE):
        return Diagnosis("bucket", Verdict.OK, f"there, asked at {bucket.endpoint} (region {asked})")
    return Diagnosis(
        "bucket",
        Verdict.WARNING,
        f"it is in {home}, and requests are signed for {asked}",
        "each process is redirected first; where a policy denies that, nothing works",
        f"set region to {home}",
    )


def _refused(error: StoreError) -> Diagnosis:
    if isinstance(error, BucketMissing):
        meaning, remedy = "there is no cold tier", "create the bucket, or correct its name in STORE"
        return Diagnosis("bucket", Verdict.PROBLEM, str(error), meaning, remedy)
    meaning = "cold files cannot be read, nothing is archived"
    return Diagnosis("bucket", Verdict.PROBLEM, str(error), meaning, "correct what the sentence names")


def _lease(found: Found | None, patient: Patient) -> Diagnosis:
    assert patient.request is not None
    try:
        own = identity_of(Path(patient.request.state))
    except OSError:
        own = ""
    return judge_lease(found, own, time.time_ns())


def _directory(address: StoreAddress, patient: Patient) -> Iterator[Diagnosis]:
    """A cold tier in a directory. What is written is a file without a name, in the reserved directory."""
    path, subject = address.bucket_or_dir, "store"
    reserved = os.path.join(path, os.fsdecode(RESERVED))
    try:
        os.scandir(path).close()
    except OSError as error:
        meaning, remedy = "there is no cold tier", "create it, mount its disk, or correct STORE"
        yield Diagnosis(subject, Verdict.PROBLEM, f"{path}: {error.strerror}", meaning, remedy)
        return
    is_known = os.path.isdir(reserved)
    try:
        if patient.settings.read_only:
            pass
        elif is_known:
            tempfile.TemporaryFile(dir=reserved).close()
        elif not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(0, "permission denied")
    except OSError as error:
        meaning = "nothing can be archived"
        remedy = "give this user the right to write there, make room, or mount its disk writable"
        yield Diagnosis(subject, Verdict.PROBLEM, f"{path}: nothing can be written: {error.strerror}", meaning, remedy)
        return
    yield Diagnosis(subject, Verdict.OK, f"{path}, {'with' if is_known else 'without'} objects of tierfs")
    if full := room_of(os.statvfs(path)).why_full:
        yield Diagnosis("store disk", Verdict.PROBLEM, f"full: {full}", "nothing can be archived", "make room")
    if os.path.exists(os.path.join(reserved, KEY)):  # else reading it would leave a lock behind, which is ours
        try:
            yield _lease(DirectoryLeasePlace(path, is_known=True).read(), patient)
        except StoreError as error:
            yield _refused(error)
