"""Settings as TOML: what is written is read back, and nothing secret is shown."""

import tomllib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tierfs.core.config import Settings
from tierfs.core.secrets import masked, shown_setting, shown_url
from tierfs.core.toml import settings_file, toml_of

WHERE = {"store": "s3://bucket/prefix", "mountpoint": "/srv/data", "hot": "/srv/data", "state": "/state"}


def test_what_a_mount_runs_with_is_a_settings_file() -> None:
    settings = Settings.of(
        warm_after="90m", pins=["*.idx", 'a"b\\c'], region="eu", endpoint_url="http://127.0.0.1:9000", cache_size="7GiB"
    )
    written = tomllib.loads(settings_file(WHERE, settings))
    assert {name: written.pop(name) for name in WHERE} == WHERE
    assert written.keys() == Settings.model_fields.keys()
    assert Settings.of(**written) == settings


def test_names_and_passwords_in_urls_are_not_shown() -> None:
    settings = Settings.of(endpoint_url="https://user:pass@word@host:9000/path?x=@y")
    text = settings_file({"store": "s3://key:secret@bucket/a@b"}, settings)
    assert 'endpoint_url = "https://***@host:9000/path?***"' in text
    assert 'store = "s3://***@bucket/a@b"' in text
    assert masked("http://127.0.0.1/a@b") == "http://127.0.0.1/a@b"


@given(st.text(st.characters(exclude_categories=("Cs",))))
@example('\0 \n \r \t \x1f \x7f \x80 " \\ \\n')
def test_any_text_comes_back(text: str) -> None:
    assert tomllib.loads(f"a = {toml_of(text)}") == {"a": text}


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://host:9000/path", "https://host:9000/path"),
        ("https://user:secret@host:9000/path", "https://***@host:9000/path"),
        ("https://secret@host", "https://***@host"),
        ("https://host/?token=secret#secret", "https://host/?***"),
        ("https://[secret", "***"),
        ("s3://bucket/prefix", "s3://bucket/prefix"),
        ("file:///directory", "file:///directory"),
    ],
)
def test_a_url_is_shown_without_what_is_secret(url: str, shown: str) -> None:
    assert shown_url(url) == shown
    assert shown_setting(url) == shown
