"""What a failure inside boto3 means: which error it is, and why in words for a person."""

import re

import botocore.exceptions as boto
import urllib3.exceptions
from botocore.parsers import ResponseParserError

from tierfs.core.errors import AccessDenied, StoreError, StoreRefused, StoreUnavailable
from tierfs.stores.s3_answers import NOT_S3

_NO_CREDENTIALS = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.CredentialRetrievalError,
    boto.TokenRetrievalError,
    boto.NoAuthTokenError,
    boto.SSOError,
    boto.ProfileNotFound,
)
#: OpenSSL's words, as Python passes them on: "certificate verify failed: certificate has expired (_ssl.c:997)".
_WHY_NOT_TRUSTED = re.compile(r"certificate verify failed: ([^(]*[^( ])")
_UNREACHABLE = (boto.HTTPClientError, boto.ConnectionError, urllib3.exceptions.HTTPError)


def explain(error: Exception) -> tuple[type[StoreError], str]:
    """Which error a failure inside boto3 is, and why in words that carry nothing secret."""
    if isinstance(error, _NO_CREDENTIALS):
        return AccessDenied, f"boto3 found no usable credentials ({type(error).__name__})"
    if isinstance(error, boto.IncompleteReadError):
        return StoreUnavailable, "the answer ended before its announced end"
    if isinstance(error, boto.ResponseStreamingError) and "IncompleteRead" in str(error):
        return StoreUnavailable, "the connection was closed before the announced end of the answer"
    if isinstance(error, boto.SSLError):
        told = _WHY_NOT_TRUSTED.search(str(error))
        why = f" ({told[1]})" if told else ""
        return StoreUnavailable, f"the TLS handshake failed{why}: check endpoint_url, and the certificate that it shows"
    if isinstance(error, boto.ReadTimeoutError):
        return StoreUnavailable, "the store was silent for longer than timeout"
    if isinstance(error, boto.ConnectTimeoutError | boto.EndpointConnectionError):
        return StoreUnavailable, "nothing answers at that address: check endpoint_url, region and the network"
    if isinstance(error, _UNREACHABLE):
        return StoreUnavailable, f"the connection broke ({type(error).__name__})"
    if isinstance(error, ResponseParserError):
        return StoreUnavailable, NOT_S3
    return StoreRefused, str(error)
