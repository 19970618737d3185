"""A policy that runs in another process, on another machine: the same calls as one in this process, no torch."""

from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from jaxtyping import Float32
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.sync.client import ClientConnection, connect

from pizero.embodiment import Embodiment
from pizero.frame import Frame
from pizero.serve.openpi import OPENPI_KEYS, ObservationKeys
from pizero.serve.protocol import CLOSE_TIMEOUT_S, PING_TIMEOUT_S, Metadata, blank_frame, frame_message, pack, unpack

CONNECT_TIMEOUT_S = 10.0
"""How long a server may take to accept a connection, and then to send its metadata."""


class ServerError(OSError):
    """One line that names the address: nothing answers there, it is no policy server, or the policy failed there."""


class RemotePolicy:
    """The policy that a server at `address` ("ws://HOST:PORT") runs: ours, or one of openpi's.

    openpi's server does not say which robot it is for: give the `embodiment`, and the `keys` of its observation where
    `OPENPI_KEYS` does not know them. It is asked once for nothing, to learn the horizon; it plans for one frame at a
    time, and draws its own noise.

    Connects again, once, when the connection was lost. For one thread; another one has a policy of its own.

    Raises ValueError for an address that is none, a robot that is missing or another than the server's, keys without a
    use; ServerError when there is no policy server.
    """

    def __init__(self, address: str, embodiment: Embodiment | None = None, keys: ObservationKeys | None = None) -> None:
        self.address = _checked(address)
        connection, message = self._open()
        self._connection: ClientConnection | None = connection
        self._metadata = message
        try:
            if "embodiment" in message:
                self._meet_ours(message, embodiment, keys)
            else:
                self._meet_openpi(message, embodiment, keys)
        except BaseException:
            self.close()
            raise

    def act(self, frame: Frame) -> Float32[np.ndarray, "t a"]:
        """Action chunk in real units; the noise is the next that the server's policy draws.

        Raises ValueError for a frame that the policy refuses, ServerError when there is no answer.
        """
        return self._chunk(frame, None)

    def act_batch(self, frames: Sequence[Frame], seeds: Sequence[int] | None = None) -> Float32[np.ndarray, "b t a"]:
        """Action chunks in real units; the noise of row i depends on seeds[i] alone where `repeatable`.

        Raises ValueError for a frame that the policy refuses, ServerError when there is no answer.
        """
        if seeds is not None and len(seeds) != len(frames):
            raise ValueError(f"{len(seeds)} seeds for {len(frames)} frames; give one each")
        if self._keys is not None:
            return np.stack([self._chunk(frame, None) for frame in frames])
        drawn: Sequence[int | None] = [None] * len(frames) if seeds is None else [int(seed) for seed in seeds]
        answer = self._ask([frame_message(frame, seed) for frame, seed in zip(frames, drawn, strict=True)])
        return self._actions(answer, (len(frames), self.horizon, len(self.embodiment.actions)))

    def close(self) -> None:
        """Say goodbye to the server. The policy cannot be asked any more."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def __enter__(self) -> "RemotePolicy":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _meet_ours(self, message: dict[str, Any], embodiment: Embodiment | None, keys: ObservationKeys | None) -> None:
        try:
            metadata = Metadata.from_message(message)
        except ValueError as error:
            raise ServerError(f"the server at {self.address} is of another version: {error}") from None
        if embodiment is not None and (difference := metadata.embodiment.difference(embodiment)):
            raise ValueError(f"the policy at {self.address} is for another robot than the one given: {difference}")
        if keys is not None:
            raise ValueError(f"keys are for servers of openpi; the one at {self.address} takes frames as they are")
        self._keys: ObservationKeys | None = None
        self.embodiment, self.horizon, self.about = metadata.embodiment, metadata.horizon, metadata.about
        self.repeatable = True

    def _meet_openpi(self, message: dict[str, Any], robot: Embodiment | None, keys: ObservationKeys | None) -> None:
        if robot is None:
            raise ValueError(
                f"the server at {self.address} does not say which robot its policy is for (openpi's servers do not): "
                f"give its embodiment; its metadata have {sorted(message) or 'nothing'}"
            )
        if keys is None:
            keys = OPENPI_KEYS.get(robot.name)
        if keys is None:
            raise ValueError(
                f"openpi's keys for the observation of {robot.name!r} are not known; give `keys` "
                f"(known are those of {', '.join(OPENPI_KEYS)})"
            )
        keys.check(robot)
        self._keys, self.embodiment, self.repeatable = keys, robot, False
        self.about = {"server": "openpi"}
        answer = self._ask(keys.message(blank_frame(robot)))
        self.horizon = len(self._actions(answer, (None, len(robot.actions))))

    def _chunk(self, frame: Frame, seed: int | None) -> Float32[np.ndarray, "t a"]:
        message = frame_message(frame, seed) if self._keys is None else self._keys.message(frame)
        return self._actions(self._ask(message), (self.horizon, len(self.embodiment.actions)))

    def _actions(self, answer: Any, shape: tuple[int | None, ...]) -> np.ndarray:
        """The actions in an answer, float32; `shape` is what they must have, None stands for any length."""
        actions = answer.get("actions") if isinstance(answer, dict) else None
        if not isinstance(actions, np.ndarray) or actions.dtype.kind not in "iuf":
            raise ServerError(f"the answer of the policy at {self.address} has no array of actions")
        fits = len(shape) == actions.ndim and all(
            want in (None, got) for want, got in zip(shape, actions.shape, strict=True)
        )
        if not fits:
            wanted = "(" + ", ".join("t" if side is None else str(side) for side in shape) + ")"
            raise ServerError(f"the policy at {self.address} answers actions {actions.shape}, expected {wanted}")
        return actions.astype(np.float32)

    def _ask(self, message: Any) -> Any:
        """The server's answer. A question whose connection is lost is asked once more: it changes nothing there."""
        if self._connection is None:
            raise ValueError(f"the connection to {self.address} was closed; make another RemotePolicy")
        data = pack(message)
        try:
            return self._exchange(self._connection, data)
        except ConnectionClosed:
            self._connect_again()
        try:
            return self._exchange(self._connection, data)
        except ConnectionClosed as error:
            raise ServerError(f"the server at {self.address} ended the connection twice: {error}") from None

    def _exchange(self, connection: ClientConnection, data: bytes) -> Any:
        try:
            connection.send(data)
            answer = connection.recv()
        except BaseException:
            # an answer that comes later must not be taken for that of the next question
            connection.close()
            raise
        if isinstance(answer, str):
            raise self._failure(answer)
        try:
            return unpack(answer)
        except ValueError as error:
            raise ServerError(f"the server at {self.address} answers nonsense: {error}") from None

    def _failure(self, text: str) -> Exception:
        """What a text of the server says. Its last line is an exception's, as in the tracebacks that openpi sends."""
        line = (text.strip().splitlines() or ["an empty text"])[-1]
        if line.startswith("ValueError: "):
            return ValueError(f"{line.removeprefix('ValueError: ')} (says the policy at {self.address})")
        return ServerError(f"the policy at {self.address} failed: {line}")

    def _connect_again(self) -> None:
        connection, message = self._open()
        self._connection = connection
        if message != self._metadata:
            self.close()
            raise ServerError(f"the connection to {self.address} was lost, and another policy is served there now")

    def _open(self) -> tuple[ClientConnection, dict[str, Any]]:
        """A new connection and the metadata that come with it. Raises ServerError."""
        try:
            connection = connect(
                self.address,
                compression=None,  # pictures are noise to it, and openpi's client takes none
                max_size=None,
                proxy=None,  # robots and their servers are neighbours; a proxy for the web does not know them
                open_timeout=CONNECT_TIMEOUT_S,
                close_timeout=CLOSE_TIMEOUT_S,
                ping_timeout=PING_TIMEOUT_S,
            ).__enter__()  # in websockets 17 it must be, before it need not; `close` is all that leaving does
        except (InvalidHandshake, EOFError) as error:
            raise ServerError(f"what listens at {self.address} is no policy server: {error}") from None
        except OSError as error:  # refused, unknown host, no answer in time
            hint = "start one with `pizero serve CHECKPOINT`"
            raise ServerError(f"no policy server answers at {self.address} ({error}); {hint}") from None
        try:
            message = unpack(connection.recv(CONNECT_TIMEOUT_S, decode=False))
            if not isinstance(message, dict):
                raise ValueError(f"its first message is a {type(message).__name__}, expected a dict")
        except (ConnectionClosed, TimeoutError, ValueError) as error:
            with suppress(ConnectionClosed):
                connection.close()
            what = f"no metadata within {CONNECT_TIMEOUT_S:.0f} s" if isinstance(error, TimeoutError) else error
            raise ServerError(f"what listens at {self.address} is no policy server: {what}") from None
        return connection, message


def _checked(address: str) -> str:
    """The address. Raises ValueError when it is not ws://HOST:PORT (or wss://)."""
    try:
        parts = urlsplit(address)
        good = parts.scheme in ("ws", "wss") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number or too large
        good = False
    if not good:
        raise ValueError(f"address {address!r} is not that of a policy server, which looks like ws://127.0.0.1:8000")
    return address
