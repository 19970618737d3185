"""Serves a policy over a websocket: to our client, and to openpi's where the robot is one that openpi knows.

Each connection has a thread, which answers pings while the policy plans; the policy itself runs in one thread of its
own, for one request after the other. (A server that plans where it answers pings loses its clients when a plan takes
long, as the first one does: openpi's issue 717.)
"""

import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from types import TracebackType
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode
from websockets.http11 import Request, Response
from websockets.sync.server import ServerConnection, serve

from pizero.embodiment import Embodiment
from pizero.frame import Frame
from pizero.serve.openpi import OPENPI_KEYS
from pizero.serve.protocol import CLOSE_TIMEOUT_S, PING_TIMEOUT_S, Metadata, blank_frame, pack, read_frame, unpack

Report = Callable[[str], None]
"""Called with a line for the people who watch the server."""


@runtime_checkable
class ServedPolicy(Protocol):
    """What can be served."""

    embodiment: Embodiment
    """The robot that it is for."""

    def act_batch(self, frames: Sequence[Frame], seeds: Sequence[int] | None = None) -> Float[np.ndarray, "b t a"]:
        """One action chunk per frame, in real units; the noise of row i comes from seeds[i]."""
        ...


class PolicyServer:
    """Serves from when it is made until it is closed; use it in a `with` statement.

    The policy plans once before the port opens: what it compiles at first, no client waits for.

    port: 0 takes a free one; `address` says which.
    about: told to clients, for people and reports.
    report: told who comes and goes, what is refused and what fails. None: lines on stderr.

    Raises OSError when the port is taken.
    """

    def __init__(
        self,
        policy: ServedPolicy,
        host: str = "127.0.0.1",
        port: int = 8000,
        about: dict[str, str] | None = None,
        report: Report | None = None,
    ) -> None:
        self._policy = policy
        self._report = report or _print
        self._keys = OPENPI_KEYS.get(policy.embodiment.name)
        # one thread for all plans: CUDA graphs and compiled code are used where they were made
        self._planner = ThreadPoolExecutor(1, "plan")
        self._closing = threading.Event()
        self._connections: set[ServerConnection] = set()
        try:
            blank = self._planner.submit(policy.act_batch, [blank_frame(policy.embodiment)], [0]).result()
            self.metadata = Metadata(policy.embodiment, blank.shape[1], about or {})
            self._server = serve(
                self._handle,
                host,
                port,
                compression=None,
                max_size=None,
                ping_timeout=PING_TIMEOUT_S,
                close_timeout=CLOSE_TIMEOUT_S,
                process_request=_health,
            )
        except BaseException:
            self._planner.shutdown()
            raise
        bound = self._server.socket.getsockname()
        self.address = f"ws://[{bound[0]}]:{bound[1]}" if ":" in bound[0] else f"ws://{bound[0]}:{bound[1]}"
        """Where it listens."""
        self._listener = threading.Thread(target=self._server.serve_forever, name="listen")
        self._listener.start()

    def wait(self) -> None:
        """Until another thread closes the server, or Ctrl-C interrupts the main thread (KeyboardInterrupt)."""
        self._listener.join()

    def close(self) -> None:
        """End all connections; a plan that is being made is waited for, requests in the queue are dropped."""
        self._closing.set()
        self._planner.shutdown(wait=False, cancel_futures=True)
        for connection in list(self._connections):  # websockets 15 leaves them open
            connection.close(CloseCode.GOING_AWAY)
        self._server.shutdown()
        self._listener.join()
        self._planner.shutdown()

    def __enter__(self) -> "PolicyServer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _handle(self, connection: ServerConnection) -> None:
        """One connection, in its own thread, from metadata to goodbye."""
        client = f"{connection.remote_address[0]}:{connection.remote_address[1]}"
        self._report(f"{client} came")
        self._connections.add(connection)
        requests, before_ms = 0, None
        try:
            connection.send(pack(self.metadata.to_message()))
            for message in connection:
                started = time.monotonic()
                answer = self._answer(client, message)
                if isinstance(answer, dict):
                    if before_ms is not None:
                        answer["server_timing"]["prev_total_ms"] = before_ms
                    connection.send(pack(answer))
                else:
                    connection.send(answer)
                before_ms = (time.monotonic() - started) * 1000
                requests += 1
            self._report(f"{client} left after {requests} requests")
        except ConnectionClosed as error:
            self._report(f"{client} was lost after {requests} requests: {error}")
        finally:
            self._connections.discard(connection)

    def _answer(self, client: str, message: str | bytes) -> dict[str, Any] | str:
        """The answer to a request, or the text that says why there is none."""
        try:
            frames, seeds, is_batch = self._read(message)
            chunks, infer_ms = self._planner.submit(self._plan, frames, seeds).result()
        except ValueError as error:
            self._report(f"{client} is refused: {error}")
            return f"ValueError: {error}"
        except Exception as error:  # whatever it is, other clients and later requests are not to suffer
            if self._closing.is_set():  # it was dropped from the queue, or came too late for it
                return "the server is ending"
            self._report(f"failed for {client}:\n{traceback.format_exc().rstrip()}")
            return f"{type(error).__name__}: {error}"
        return {"actions": chunks if is_batch else chunks[0], "server_timing": {"infer_ms": infer_ms}}

    def _read(self, message: str | bytes) -> tuple[list[Frame], list[int] | None, bool]:
        """Frames, their seeds, and whether they came as a list. Raises ValueError for what is no request."""
        if isinstance(message, str):
            raise ValueError("request is a text, expected msgpack in a binary message")
        request = unpack(message)
        if self._keys is not None and self._keys.match(request):
            return [self._keys.read(request)], None, False
        is_batch = isinstance(request, list)
        read = [read_frame(item) for item in (request if is_batch else [request])]
        if not read:
            raise ValueError("request is an empty list, expected at least one frame")
        seeds = [seed for _, seed in read if seed is not None]
        if seeds and len(seeds) < len(read):
            raise ValueError(f"{len(seeds)} of {len(read)} frames have a seed; give one to each or to none")
        return [frame for frame, _ in read], seeds or None, is_batch

    def _plan(self, frames: list[Frame], seeds: list[int] | None) -> tuple[np.ndarray, float]:
        """Chunks (b, t, a), float32, and the milliseconds that they took. Runs in the planner's thread."""
        started = time.monotonic()
        chunks = np.asarray(self._policy.act_batch(frames, seeds), np.float32)
        return chunks, (time.monotonic() - started) * 1000


def _health(connection: ServerConnection, request: Request) -> Response | None:
    """200 for GET /healthz, as openpi's server does; None: go on with the websocket."""
    return connection.respond(HTTPStatus.OK, "OK\n") if request.path == "/healthz" else None


def _print(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
