"""Where a cold store is, as people write it: s3://BUCKET[/PREFIX] or file:///DIR."""

import re
from typing import Literal, NamedTuple
from urllib.parse import unquote

from tierfs.core.errors import ConfigError

#: What every S3 server takes as a bucket name; AWS is stricter, older buckets and other servers are not.
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_HOW = "write s3://BUCKET, s3://BUCKET/PREFIX or file:///DIRECTORY"


class StoreAddress(NamedTuple):
    """A parsed STORE argument; `prefix` is empty or ends with a slash."""

    kind: Literal["s3", "file"]
    bucket_or_dir: str
    prefix: str


def parse_store(url: str) -> StoreAddress:
    """Take a STORE argument apart. ConfigError on anything that is not s3://BUCKET[/PREFIX] or file:///DIR."""
    scheme, separator, rest = url.partition("://")
    if "\0" in url or not separator:
        raise ConfigError(f"{url!r} is not a store: {_HOW}")
    if scheme.lower() == "s3":
        return _s3(url, rest)
    if scheme.lower() == "file":
        return _file(url, rest)
    raise ConfigError(f"{url!r} is not a store: tierfs does not know {scheme}://; {_HOW}")


def _s3(url: str, rest: str) -> StoreAddress:
    bucket, _, prefix = rest.partition("/")
    if "@" in bucket:
        # Not repeated in the message: what stands before the @ may be a secret.
        raise ConfigError("credentials do not belong into the store's URL: let boto3 find them (environment, profile)")
    if not _BUCKET.fullmatch(bucket):
        raise ConfigError(f"{url!r} is not a store: {bucket!r} cannot be the name of a bucket; {_HOW}")
    prefix = prefix.rstrip("/")
    if prefix and not all(segment not in ("", ".", "..") for segment in prefix.split("/")):
        raise ConfigError(f"{url!r} is not a store: the prefix {prefix!r} has an empty, '.' or '..' part")
    return StoreAddress("s3", bucket, f"{prefix}/" if prefix else "")


def _file(url: str, rest: str) -> StoreAddress:
    host, slash, path = rest.partition("/")
    if host not in ("", "localhost") or not slash:
        raise ConfigError(f"{url!r} is not a store: the directory must be absolute; {_HOW}")
    directory = unquote("/" + path, errors="surrogateescape")
    if "\0" in directory or not directory.strip("/"):
        raise ConfigError(f"{url!r} is not a store: it names no directory; {_HOW}")
    return StoreAddress("file", directory.rstrip("/"), "")
