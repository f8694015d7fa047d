"""STORE as people write it."""

import pytest

from tierfs.core.errors import ConfigError
from tierfs.stores.address import parse_store


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("s3://bucket", ("s3", "bucket", "")),
        ("s3://bucket/", ("s3", "bucket", "")),
        ("S3://My_Old.Bucket-1/a", ("s3", "My_Old.Bucket-1", "a/")),
        ("s3://bucket/a/b c/", ("s3", "bucket", "a/b c/")),
        ("file:///srv/cold", ("file", "/srv/cold", "")),
        ("file:///srv/cold/", ("file", "/srv/cold", "")),
        ("file://localhost/srv/cold", ("file", "/srv/cold", "")),
        ("file:///srv/with%20space", ("file", "/srv/with space", "")),
        ("file:///srv/gr\u00fc\u00dfe", ("file", "/srv/gr\u00fc\u00dfe", "")),
    ],
)
def test_stores(url: str, address: tuple[str, str, str]) -> None:
    assert parse_store(url) == address


@pytest.mark.parametrize(
    "url",
    [
        "", "bucket", "/srv/cold", "s3:/bucket", "s3://", "s3:///prefix", "s3://b", "s3://buc ket", "s3://bucket//a",
        "s3://bucket/a/../b", "s3://bucket/./a", "s3://-bucket", "gs://bucket", "http://bucket", "file://srv/cold",
        "file://", "file:///", "file:///a%00b", "s3://bucket/\0",
    ],
)  # fmt: skip
def test_what_is_no_store(url: str) -> None:
    with pytest.raises(ConfigError, match=r"s3://BUCKET|prefix"):
        parse_store(url)


def test_credentials_in_the_url_are_not_repeated() -> None:
    with pytest.raises(ConfigError, match="credentials") as caught:
        parse_store("s3://key:topsecret@bucket")
    assert "topsecret" not in str(caught.value)
