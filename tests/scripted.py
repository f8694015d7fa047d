"""An HTTP server that gives written answers, byte for byte: what no S3 server does on command."""

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Answer:
    """What is sent, and what is done then: "close", "reset" (RST), or "hang" until the server ends."""

    text: bytes
    then: str = "close"


def http(status: int, body: bytes = b"", *, length: int | None = None, then: str = "close", **headers: str) -> Answer:
    """An answer with these headers (`_` is written `-`); `length` announces another size than the body's."""
    head = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(body) if length is None else length}"]
    head += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return Answer("\r\n".join([*head, "Connection: close", "", ""]).encode() + body, then)


def refusal(status: int, code: str, message: str = "") -> Answer:
    """A refusal as S3 writes it."""
    xml = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
    return http(status, xml.encode(), Content_Type="application/xml")


@dataclass(slots=True)
class ScriptedServer:
    """Gives its answers in turn, the last one again and again; remembers the request lines."""

    endpoint_url: str
    answers: list[Answer]
    requests: list[str] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def serve(self, listener: socket.socket) -> None:
        hanging: list[socket.socket] = []
        while True:
            connection, _ = listener.accept()
            if self.ended.is_set():
                connection.close()
                break
            self._serve_one(connection, hanging)
        for connection in hanging:
            connection.close()

    def _serve_one(self, connection: socket.socket, hanging: list[socket.socket]) -> None:
        request = _read_request(connection)
        self.requests.append(request.split("\r\n")[0])
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        connection.sendall(answer.text)
        if answer.then == "hang":
            hanging.append(connection)
            return
        if answer.then == "reset":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()


@contextmanager
def scripted(*answers: Answer) -> Iterator[ScriptedServer]:
    """A server with these answers, on a free loopback port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        server = ScriptedServer(f"http://127.0.0.1:{address[1]}", list(answers))
        thread = threading.Thread(target=server.serve, args=(listener,))
        thread.start()
        try:
            yield server
        finally:
            server.ended.set()
            socket.create_connection(address).close()
            thread.join()


def _read_request(connection: socket.socket) -> str:
    received = b""
    while b"\r\n\r\n" not in received:
        received += (more := connection.recv(65536))
        if not more:
            break
    head, _, body = received.partition(b"\r\n\r\n")
    text = head.decode("latin-1")
    length = next(
        (int(line.split(":")[1]) for line in text.lower().split("\r\n") if line.startswith("content-length:")), 0
    )
    if "100-continue" in text.lower():
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    while len(body) < length:
        body += connection.recv(65536)
    return text
