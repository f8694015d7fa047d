"""Where the API listens: what is an address and what is not."""

import pytest

from tierfs.core.config import Settings
from tierfs.core.errors import ConfigError
from tierfs.core.listen import ListenAddress, parse_listen


@pytest.mark.parametrize(
    ("text", "address", "is_loopback"),
    [
        ("127.0.0.1:9464", ListenAddress("127.0.0.1", 9464), True),
        ("[::1]:9464", ListenAddress("::1", 9464), True),
        ("0.0.0.0:0", ListenAddress("0.0.0.0", 0), False),
        ("[2001:db8::1]:65535", ListenAddress("2001:db8::1", 65535), False),
    ],
)
def test_an_address_is_read_and_written_alike(text: str, address: ListenAddress, is_loopback: bool) -> None:
    assert parse_listen(text) == address
    assert str(address) == text
    assert address.is_loopback == is_loopback


@pytest.mark.parametrize(
    "text",
    [
        *("9464", ":9464", "localhost:9464", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:-1", "::1:9464"),
        *("[127.0.0.1]:1", "[::1]", "127.0.0.1:٣", "http://127.0.0.1:1", "127.0.0.1:1 ", ""),
    ],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match="is not an address and a port"):
        parse_listen(text)


def test_an_address_needs_a_token() -> None:
    with pytest.raises(ConfigError, match=r"^api_address \(127.0.0.1:1\) needs a token: say in api_token_file"):
        Settings.of(api_address="127.0.0.1:1")
    with pytest.raises(ConfigError, match="'token' is not an absolute path"):
        Settings.of(api_address="127.0.0.1:1", api_token_file="token")
    with pytest.raises(ConfigError, match="is not an address and a port"):
        Settings.of(api_address="localhost:1", api_token_file="/t")
    assert Settings.of(api_address="", api_token_file="").api_address is None
    assert Settings.of(api_token_file="/t").api_address is None
