"""Where the API listens on TCP, as it is written. Pure."""

import ipaddress
from typing import NamedTuple


class ListenAddress(NamedTuple):
    """An address of this host and a port; port 0 takes any that is free."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether nothing but this host can reach it."""
        return ipaddress.ip_address(self.host).is_loopback


def parse_listen(text: str) -> ListenAddress:
    """The address in "127.0.0.1:9464" or "[::1]:9464". ValueError.

    Names are no addresses: what they mean may change, and with it who can connect.
    """
    host, colon, port = text.rpartition(":")
    is_bracketed = host.startswith("[") and host.endswith("]")
    try:
        address = ipaddress.ip_address(host[1:-1] if is_bracketed else host)
        is_written_well = is_bracketed == (address.version == 6) and port.isascii() and port.isdigit()
    except ValueError:
        is_written_well = False
    if not colon or not is_written_well or int(port) > 65535:
        raise ValueError(f"{text!r} is not an address and a port, such as 127.0.0.1:9464 or [::1]:9464")
    return ListenAddress(str(address), int(port))


def listen_address(value: object) -> object:
    """The setting: as it is written, or None for an empty one. ValueError."""
    return (str(parse_listen(value)) if value else None) if isinstance(value, str) else value


def absolute_path(value: object) -> object:
    """A setting that names a file; None for an empty one. ValueError."""
    if isinstance(value, str) and value and not value.startswith("/"):
        raise ValueError(f"{value!r} is not an absolute path: the mount does not run in the directory that you are in")
    return None if value == "" else value
