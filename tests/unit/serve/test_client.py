import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer

import msgpack
import numpy as np
import pytest
from telling import ARM, TellingPolicy
from websockets.sync.server import ServerConnection, serve

from pizero.frame import Frame, Policy
from pizero.policy.executor import ChunkExecutor
from pizero.robot.droid import DROID
from pizero.robot.libero import LIBERO
from pizero.serve.client import RemotePolicy, ServerError
from pizero.serve.openpi import OPENPI_KEYS
from pizero.serve.protocol import Metadata


@contextmanager
def websocket(handler: Callable[[ServerConnection], None]) -> Iterator[str]:
    """A websocket server that does as it is told; its address."""
    with serve(handler, "127.0.0.1", 0, compression=None, max_size=None) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
    thread.join()


def test_a_served_policy_is_the_one_in_this_process_bit_for_bit(served, make_policy, make_frame):
    frames = [make_frame(1), make_frame(2, "close it"), Frame({"wrist": make_frame(3).images["wrist"]}, np.ones(3))]
    here = make_policy()
    with served(make_policy()) as server, RemotePolicy(server.address) as remote:
        assert remote.embodiment == ARM
        assert remote.horizon == 3
        assert remote.repeatable
        for batch, seeds in ((frames, [5, 6, 7]), (frames[:1], [2**63 - 1]), (frames[::-1], [1, 1, 1])):
            expected, got = here.act_batch(batch, seeds), remote.act_batch(batch, seeds)
            assert got.dtype == np.float32
            assert got.tobytes() == expected.tobytes()
        for frame in frames:  # and the noise that the policy draws by itself, one after the other
            assert remote.act(frame).tobytes() == here.act(frame).tobytes()
        assert remote.act_batch(frames).tobytes() == here.act_batch(frames).tobytes()


def test_a_remote_policy_is_a_policy(served, telling, make_frame):
    with served(telling) as server, RemotePolicy(server.address) as remote:
        assert isinstance(remote, Policy)
        executor = ChunkExecutor(remote, execute_steps=2)
        assert [executor.act(make_frame(0))[0] for _ in range(3)] == [-1, 0, -1]


def test_what_the_server_says_about_its_policy_is_known(served, telling):
    with served(telling, about={"checkpoint": "step-7"}) as server, RemotePolicy(server.address) as remote:
        assert remote.about == {"checkpoint": "step-7"}


def test_a_wrong_camera_is_named_and_the_policy_goes_on(served, make_policy, make_frame):
    wrong = Frame({"wrst": np.zeros((4, 4, 3), np.uint8)}, np.zeros(3, np.float32), "open it")
    with served(make_policy()) as server, RemotePolicy(server.address) as remote:
        with pytest.raises(ValueError, match=f"camera 'wrst'.*nearest: 'wrist' .says the policy at {server.address}"):
            remote.act(wrong)
        with pytest.raises(ValueError, match="state of 2 values, arm has 3"):
            remote.act_batch([make_frame(1), replace(make_frame(2), state=np.zeros(2, np.float32))], [1, 2])
        assert remote.act_batch([make_frame(1)], [1]).shape == (1, 3, 2)


def test_as_many_seeds_as_frames_are_needed(served, telling, make_frame):
    with (
        served(telling) as server,
        RemotePolicy(server.address) as remote,
        pytest.raises(ValueError, match="1 seeds for 2 frames"),
    ):
        remote.act_batch([make_frame(1)] * 2, [1])


def test_a_policy_that_fails_there_is_an_error_here_that_is_no_refusal(served, telling, make_frame):
    with served(telling) as server, RemotePolicy(server.address) as remote:
        with pytest.raises(ServerError, match=f"policy at {server.address} failed: RuntimeError: out of memory"):
            remote.act(make_frame(0, "stumble"))
        assert not issubclass(ServerError, ValueError)
        assert remote.act_batch([make_frame(0)], [4])[0, 0, 0] == 4


def test_a_lost_connection_is_made_again(served, telling, make_frame):
    with served(telling) as server:
        port = int(server.address.rsplit(":", 1)[1])
        remote = RemotePolicy(server.address)
        assert remote.act_batch([make_frame(0)], [4])[0, 0, 0] == 4
    with served(TellingPolicy(), port):  # the server was stopped and started again
        assert remote.act_batch([make_frame(0)], [5])[0, 0, 0] == 5
    with pytest.raises(ServerError, match=f"no policy server answers at ws://127.0.0.1:{port}"):
        remote.act(make_frame(0))
    with served(TellingPolicy(), port):
        assert remote.act_batch([make_frame(0)], [6])[0, 0, 0] == 6
    with served(TellingPolicy(horizon=5), port), pytest.raises(ServerError, match="another policy is served there now"):
        remote.act(make_frame(0))


def test_an_answer_that_was_not_waited_for_is_not_taken_for_the_next(served, telling, make_frame, monkeypatch):
    with served(telling) as server, RemotePolicy(server.address) as remote:

        def interrupted() -> bytes:
            monkeypatch.undo()
            raise KeyboardInterrupt

        monkeypatch.setattr(remote._connection, "recv", interrupted)
        with pytest.raises(KeyboardInterrupt):
            remote.act_batch([make_frame(0)], [1])
        assert remote.act_batch([make_frame(0)], [2])[0, 0, 0] == 2


def test_a_closed_policy_says_so(served, telling, make_frame):
    with served(telling) as server:
        with RemotePolicy(server.address) as remote:
            pass
        remote.close()
        with pytest.raises(ValueError, match="was closed"):
            remote.act(make_frame(0))


@pytest.mark.parametrize("address", ["runs/step-7", "127.0.0.1:8000", "http://127.0.0.1:8000", "ws://", "ws://a:b"])
def test_an_address_that_is_none_is_told_what_one_looks_like(address):
    with pytest.raises(ValueError, match=r"looks like ws://127\.0\.0\.1:8000"):
        RemotePolicy(address)


def test_where_nothing_listens_the_address_and_the_command_are_named():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(ServerError, match=f"at ws://127.0.0.1:{port} .*refused.*start one with `pizero serve"):
        RemotePolicy(f"ws://127.0.0.1:{port}")
    with pytest.raises(ServerError, match=r"no policy server answers at ws://no-such-host\.invalid:8000"):
        RemotePolicy("ws://no-such-host.invalid:8000")


def test_another_program_is_told_from_a_policy_server():
    class Page(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Page) as page:
        threading.Thread(target=page.serve_forever, daemon=True).start()
        with pytest.raises(ServerError, match=r"is no policy server: .*404"):
            RemotePolicy(f"ws://127.0.0.1:{page.server_port}")
        page.shutdown()
    for first, why in (("hello", "cannot be read"), (msgpack.packb([1]), "a list"), (None, "received 1000")):
        with (
            websocket(lambda connection, first=first: first and connection.send(first)) as address,
            pytest.raises(ServerError, match=f"listens at {address} is no policy server: .*{why}"),
        ):
            RemotePolicy(address)


def test_a_server_of_another_version_is_refused(served, telling, monkeypatch):
    monkeypatch.setattr("pizero.serve.protocol.PROTOCOL", 2)
    with served(telling) as server:
        sent = server.metadata.to_message()
    monkeypatch.undo()

    def handler(connection: ServerConnection) -> None:
        connection.send(msgpack.packb(sent))

    with websocket(handler) as address, pytest.raises(ServerError, match="speaks protocol 2, this pizero speaks 1"):
        RemotePolicy(address)


def test_another_robot_than_the_one_given_is_refused(served, telling):
    with served(telling) as server:
        RemotePolicy(server.address, telling.embodiment).close()
        with pytest.raises(ValueError, match="another robot than the one given: name: arm against libero"):
            RemotePolicy(server.address, LIBERO)
        with pytest.raises(ValueError, match="keys are for servers of openpi"):
            RemotePolicy(server.address, keys=OPENPI_KEYS["libero"])


class Openpi:
    """Does what openpi's server does, in plain msgpack: a chunk of what it saw, or a traceback and goodbye."""

    def __init__(self, width: int = 7) -> None:
        self.width = width
        self.seen: list[dict] = []

    def __call__(self, connection: ServerConnection) -> None:
        connection.send(msgpack.packb({}))
        for data in connection:
            message = msgpack.unpackb(data)
            self.seen.append(message)
            if message["prompt"] == "stumble":
                connection.send('Traceback (most recent call last):\n  File "policy.py"\nKeyError: "what"\n')
                connection.close(1011, "Internal server error")
                return
            chunk = np.full((10, self.width), len(self.seen), np.float64)
            array = {b"__ndarray__": True, b"data": chunk.tobytes(), b"dtype": "<f8", b"shape": chunk.shape}
            connection.send(msgpack.packb({"actions": array, "server_timing": {"infer_ms": 1.5}}))


def test_a_server_of_openpi_needs_a_robot():
    with websocket(Openpi()) as address:
        with pytest.raises(ValueError, match=f"server at {address} does not say which robot.*give its embodiment"):
            RemotePolicy(address)
        with pytest.raises(ValueError, match="keys for the observation of 'arm' are not known; give `keys`"):
            RemotePolicy(address, ARM)
        with pytest.raises(ValueError, match="keys are given for the cameras"):
            RemotePolicy(address, ARM, OPENPI_KEYS["libero"])


def test_a_server_of_openpi_is_asked_in_its_own_words(make_frame):
    openpi = Openpi()
    frames = [make_frame(i, f"task {i}", LIBERO) for i in range(3)]
    with websocket(openpi) as address, RemotePolicy(address, LIBERO) as remote:
        assert (remote.horizon, remote.embodiment, remote.repeatable) == (10, LIBERO, False)
        chunks = remote.act_batch(frames, [1, 2, 3])
        assert remote.act(frames[0])[0, 0] == 5
    assert chunks.shape == (3, 10, 7)
    assert chunks.dtype == np.float32
    assert chunks[:, 0, 0].tolist() == [2, 3, 4]
    blank, *asked = openpi.seen
    assert blank["prompt"] == ""
    assert [message["prompt"] for message in asked] == ["task 0", "task 1", "task 2", "task 0"]
    picture = asked[1]["observation/wrist_image"]
    assert (picture[b"dtype"], picture[b"shape"]) == ("|u1", [12, 14, 3])
    assert picture[b"data"] == frames[1].images["wrist_image"].tobytes()
    assert asked[1]["observation/state"][b"data"] == frames[1].state.tobytes()


def test_the_last_line_of_openpis_traceback_is_told_and_the_next_question_connects_again(make_frame):
    with websocket(Openpi()) as address, RemotePolicy(address, LIBERO) as remote:
        with pytest.raises(ServerError, match='failed: KeyError: "what"'):
            remote.act(make_frame(0, "stumble", LIBERO))
        assert remote.act(make_frame(0, "go on", LIBERO)).shape == (10, 7)


def test_a_server_of_openpi_for_another_robot_is_refused_by_its_answer():
    wrong = pytest.raises(ServerError, match=r"answers actions \(10, 7\), expected \(t, 8\)")
    with websocket(Openpi(width=7)) as address, wrong:
        RemotePolicy(address, DROID)


def test_a_server_that_always_hangs_up_is_named(make_frame):
    metadata = Metadata(TellingPolicy().embodiment, 4).to_message()

    def handler(connection: ServerConnection) -> None:
        connection.send(msgpack.packb(metadata))
        connection.recv()

    with (
        websocket(handler) as address,
        RemotePolicy(address) as remote,
        pytest.raises(ServerError, match=f"server at {address} ended the connection twice"),
    ):
        remote.act(make_frame(0))


def test_a_robots_computer_needs_no_torch():
    code = "import sys, pizero.serve.client, pizero.serve.protocol; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
