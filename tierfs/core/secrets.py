"""What must not be shown: keys, tokens, signatures, passwords in URLs. Text in, text without them out."""

import re
from collections.abc import Iterable
from urllib.parse import urlsplit

_MASK = "***"
#: A value behind its name: headers, query parameters of signed URLs, settings. The name stays, the value goes.
_NAMED = re.compile(
    r"(?i)(\b(?:x-amz-(?:signature|credential|security-token)|awsaccesskeyid|signature|authorization|"
    r"(?:aws_)?secret(?:_?access)?_?key|(?:aws_)?access_key(?:_id)?|(?:aws_)?session_?token|password|token)"
    r"['\"]?\s*(?:=|:)\s*)['\"]?(?:(?:bearer|basic|aws4-hmac-sha256)\s+)?[^\s'\"&,;<>]+"
)
_BEARER = re.compile(r"(?i)\b(bearer\s+)[\w.~+/=-]{8,}")
#: Access key ids as AWS hands them out (IAM User Guide, "Understanding unique ID prefixes").
_KEY_ID = re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{12,}\b")
_USER_INFO = re.compile(r"(\w://)[^\s/?#'\"]+@")
#: What any of the above needs: most lines have none of it, and are let through at once.
_SUSPECT = re.compile(r"(?i)=|://|AKIA|ASIA|bearer|authorization|token|password|secret|access_key")
_SHORTEST = 8  # a known secret that is shorter would be found in ordinary words


def masked(text: str, known: Iterable[str] = ()) -> str:
    """The text, with *** for whatever looks like a secret, and for the secrets that are known."""
    for secret in known:
        if len(secret) >= _SHORTEST:
            text = text.replace(secret, _MASK)
    if not _SUSPECT.search(text):
        return text
    text = _USER_INFO.sub(rf"\1{_MASK}@", text)
    text = _NAMED.sub(rf"\1{_MASK}", text)
    text = _BEARER.sub(rf"\1{_MASK}", text)
    return _KEY_ID.sub(_MASK, text)


def shown_setting(value: str) -> str:
    """A setting's text as whoever may see settings may see it."""
    return shown_url(value) if value.startswith(("http://", "https://")) else masked(value)


def shown_url(url: str) -> str:
    """A URL without the user, the password and the query that it may carry."""
    try:
        parts = urlsplit(url)
        where = parts.netloc.rpartition("@")[2]
    except ValueError:
        return _MASK
    netloc = f"{_MASK}@{where}" if "@" in parts.netloc else where
    return parts._replace(netloc=netloc, query=_MASK if parts.query else "", fragment="").geturl()
