"""An application that is imported and built when it is first asked for.

FastAPI takes a third of a second to import, and some ten megabytes: a mount that nobody asks over its API need not
have it, and none has it before it serves. The import runs in a thread, so that the loop goes on meanwhile.
"""

from collections.abc import Callable

import trio
from starlette.types import ASGIApp, Receive, Scope, Send


class Later:
    """Builds an application once, in a thread; requests wait for it. What `build` raises, they get."""

    def __init__(self, build: Callable[[], ASGIApp]) -> None:
        self._build = build
        self._app: ASGIApp | None = None
        self._building = trio.Lock()

    async def built(self) -> ASGIApp:
        """The application."""
        async with self._building:
            if self._app is None:
                self._app = await trio.to_thread.run_sync(self._build)
        return self._app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app or await self.built()
        await app(scope, receive, send)
