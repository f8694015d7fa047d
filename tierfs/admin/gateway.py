"""Where the REST API of a mount is served: beside the control API on its socket, and over TCP if that is asked for."""

import logging
import socket
from pathlib import Path

import trio
from starlette.types import ASGIApp

from tierfs.admin import wire
from tierfs.admin.auth import TokenGate, read_token
from tierfs.admin.later import Later
from tierfs.admin.listeners import address_of, listen_tcp, serve_tcp
from tierfs.core.config import Settings
from tierfs.core.errors import ConfigError, MountError
from tierfs.core.listen import parse_listen
from tierfs.engine.listing import Listing
from tierfs.engine.service import Operator
from tierfs.engine.tree import Tree

_LOG = logging.getLogger(__name__)

_PAUSE_S = 1.0


def api_of(tree: Tree, operator: Operator, settings: Settings) -> Later:
    """The REST API of a mount, loaded when somebody asks for it."""

    def build() -> ASGIApp:
        # Here, and not above: this is what loads FastAPI.
        from tierfs.admin import rest
        from tierfs.admin.answers import Mounted

        return rest.application(Mounted(operator, Listing(tree, operator.entries), settings))

    return Later(build)


class Gateway:
    """The way in over TCP, for who has the token. INVARIANT: nothing is served without one.

    `warning` says why nobody can come in although the settings ask for it; empty when all is well.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._listener: socket.socket | None = None
        self._token = b""
        self.warning = ""

    @property
    def address(self) -> str:
        """Where it listens, with the port that the kernel chose where none was asked for; empty: nowhere."""
        return str(address_of(self._listener)) if self._listener else ""

    def open(self) -> None:
        """Listen where the settings say, if they do. ConfigError, MountError."""
        if self._listener or not self._settings.api_address or not self._settings.api_token_file:
            return
        address = parse_listen(self._settings.api_address)
        self._token = read_token(Path(self._settings.api_token_file))
        try:
            self._listener = listen_tcp(address)
        except OSError as error:
            raise MountError(f"the API cannot listen at {address} (api_address): {error.strerror}") from None
        if not address.is_loopback:
            _LOG.warning("the API listens at %s: who can see the network there can read the token", self.address)

    def try_open(self) -> bool:
        """The same for a worker that goes on with a mount, which serves in any case; whether it worked."""
        try:
            self.open()
        except (ConfigError, MountError) as error:
            if self.warning != str(error):
                _LOG.error("%s", error)
            self.warning = str(error)
            return False
        self.warning = ""
        return True

    async def serve(self, api: Later) -> None:
        """Let in who has the token, until cancelled; where that cannot be yet, try again."""
        if not self._settings.api_address:
            return
        while not self.try_open() or self._listener is None:  # noqa: ASYNC110  # a file or a port, which tell nobody
            await trio.sleep(_PAUSE_S)
        gate = TokenGate(api, self._token, wire.PAGES, wire.SHOWN)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._load, api)
            nursery.start_soon(serve_tcp, gate, self._listener)

    async def _load(self, api: Later) -> None:
        """The first who asks need not wait for that; what is broken in it must not end the worker."""
        try:
            await api.built()
        except Exception as error:
            _LOG.exception("the REST API cannot be loaded")
            self.warning = f"the REST API cannot be loaded: {error}"

    def close(self) -> None:
        """Listen no more."""
        if self._listener:
            self._listener.close()
