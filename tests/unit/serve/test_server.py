import threading
import time
import urllib.request

import numpy as np
import pytest
from telling import TellingPolicy
from websockets.sync.client import connect

from pizero.robot.aloha import ALOHA
from pizero.robot.libero import LIBERO
from pizero.serve.client import RemotePolicy
from pizero.serve.openpi import OPENPI_KEYS
from pizero.serve.protocol import frame_message, pack, unpack


def ask(connection, message):
    connection.send(message if isinstance(message, str | bytes) else pack(message))
    answer = connection.recv()
    return answer if isinstance(answer, str) else unpack(answer)


@pytest.fixture
def talk(served, telling):
    """A server of the telling policy and a raw connection to it, its metadata read."""
    with served(telling) as server, connect(server.address, compression=None, max_size=None, proxy=None) as connection:
        connection.recv()
        yield connection


def test_metadata_come_first(served, telling):
    with served(telling, about={"checkpoint": "here"}) as server, connect(server.address, proxy=None) as connection:
        message = unpack(connection.recv())
    assert message["protocol"] == 1
    assert message["horizon"] == 4
    assert message["about"] == {"checkpoint": "here"}
    assert message["embodiment"] == telling.embodiment.to_json()


def test_the_policy_plans_once_before_the_port_opens(served, telling):
    with served(telling):
        assert telling.batches == [1]


def test_one_frame_gives_one_chunk_and_a_list_gives_one_batch(talk, telling, make_frame):
    frames = [make_frame(i, "go" * i) for i in range(3)]
    one = ask(talk, frame_message(frames[1], 5))
    assert one["actions"].shape == (4, 5)
    assert one["actions"].dtype == np.float32
    pixels = sum(int(image.sum()) for image in frames[1].images.values())
    np.testing.assert_allclose(one["actions"][2], [5 + 2, frames[1].state.sum(), 2, pixels, 2], rtol=1e-6)
    many = ask(talk, [frame_message(frame, i) for i, frame in enumerate(frames)])
    assert many["actions"].shape == (3, 4, 5)
    assert many["actions"][:, 0, 0].tolist() == [0, 1, 2]
    assert many["actions"][:, 0, 2].tolist() == [0, 2, 4]
    assert telling.batches == [1, 1, 3]


def test_frames_without_seeds_draw_from_the_policy(talk, make_frame):
    assert ask(talk, frame_message(make_frame(0), None))["actions"][0, 0] == -1
    assert ask(talk, [frame_message(make_frame(0), None)] * 2)["actions"][:, 0, 0].tolist() == [-1, -1]


def test_answers_are_timed(talk, make_frame):
    first, second = (ask(talk, frame_message(make_frame(0), 1))["server_timing"] for _ in range(2))
    assert list(first) == ["infer_ms"]
    assert 0 <= second["infer_ms"] < second["prev_total_ms"]


@pytest.mark.parametrize(
    ("message", "answer"),
    [
        ("hello", "ValueError: request is a text, expected msgpack in a binary message"),
        (b"\xc1", "ValueError: message cannot be read"),
        ([], "ValueError: request is an empty list"),
        (7, "ValueError: request is a int, expected a frame"),
        ({"observation": 1}, "ValueError: frame has unknown keys \\['observation'\\]"),
    ],
)
def test_a_bad_request_is_answered_with_a_text_and_the_connection_goes_on(talk, lines, make_frame, message, answer):
    text = ask(talk, message)
    assert isinstance(text, str)
    with pytest.raises(ValueError, match=f"^{answer}"):
        raise ValueError(text)
    assert any("is refused" in line for line in lines)
    assert ask(talk, frame_message(make_frame(0), 3))["actions"][0, 0] == 3


def test_a_seed_for_some_frames_only_is_refused(talk, make_frame):
    text = ask(talk, [frame_message(make_frame(0), 1), frame_message(make_frame(1), None)])
    assert text == "ValueError: 1 of 2 frames have a seed; give one to each or to none"


def test_a_policy_that_fails_is_reported_on_both_sides_and_the_server_goes_on(talk, lines, make_frame):
    assert ask(talk, frame_message(make_frame(0, "stumble"), 1)) == "RuntimeError: out of memory"
    assert any("Traceback" in line and "out of memory" in line for line in lines)
    assert ask(talk, frame_message(make_frame(0, "refuse"), 1)) == "ValueError: this policy will not"
    assert ask(talk, frame_message(make_frame(0), 3))["actions"][0, 0] == 3


def test_healthz_answers(served, telling):
    with served(telling) as server:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(server.address.replace("ws://", "http://") + "/healthz", timeout=10) as answer:
            assert (answer.status, answer.read()) == (200, b"OK\n")


@pytest.mark.parametrize("robot", [LIBERO, ALOHA])
def test_openpis_clients_are_understood(served, make_frame, robot):
    policy = TellingPolicy(robot)
    frame = make_frame(3, "do it", robot)
    with served(policy) as server, connect(server.address, compression=None, max_size=None, proxy=None) as connection:
        connection.recv()
        theirs = ask(connection, OPENPI_KEYS[robot.name].message(frame))
        ours = ask(connection, frame_message(frame, 9))
    np.testing.assert_array_equal(theirs["actions"][:, 1:], ours["actions"][:, 1:])
    assert theirs["actions"][0, 0] == -1
    assert theirs["actions"][0, 4] == len(robot.cameras)


class SlowPolicy(TellingPolicy):
    """Plans until it is told to go on."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on, self.planning = threading.Event(), threading.Event()
        self.threads: set[int] = set()

    def act_batch(self, frames, seeds=None):
        self.threads.add(threading.get_ident())
        if frames[0].prompt == "slow":
            self.planning.set()
            assert self.go_on.wait(30)
        return super().act_batch(frames, seeds)


def test_pings_are_answered_while_the_policy_plans(served, make_frame):
    policy = SlowPolicy()
    with (
        served(policy) as server,
        connect(server.address, proxy=None) as busy,
        connect(server.address, proxy=None) as idle,
    ):
        busy.recv()
        busy.send(pack(frame_message(make_frame(0, "slow"), 1)))
        assert policy.planning.wait(10)
        for connection in (busy, idle):
            assert connection.ping().wait(10)
        assert unpack(idle.recv())["protocol"] == 1
        policy.go_on.set()
        assert unpack(busy.recv())["actions"].shape == (4, 5)


def test_several_clients_get_their_own_answers_from_one_thread(served, make_frame):
    policy, wrong = SlowPolicy(), []

    def client(number: int) -> None:
        with RemotePolicy(server.address) as remote:
            for turn in range(20):
                seeds = [100 * number + turn, 7]
                chunks = remote.act_batch([make_frame(number)] * 2, seeds)
                wrong.extend([] if chunks[:, 0, 0].tolist() == seeds else [(number, turn)])

    with served(policy) as server:
        threads = [threading.Thread(target=client, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []
    assert len(policy.batches) == 1 + 4 * 20
    assert len(policy.threads) == 1


def test_closing_waits_for_the_plan_and_ends_the_connections(served, make_frame, lines):
    policy = SlowPolicy()
    server = served(policy)
    with connect(server.address, proxy=None) as first, connect(server.address, proxy=None) as second:
        for connection in (first, second):
            connection.recv()
            connection.send(pack(frame_message(make_frame(0, "slow"), 1)))
        assert policy.planning.wait(10)
        closing = threading.Thread(target=server.close)
        closing.start()
        time.sleep(0.1)
        assert closing.is_alive()
        policy.go_on.set()
        closing.join(15)
        assert not closing.is_alive()
    server.close()
    assert not any("Traceback" in line for line in lines), lines


def test_a_port_that_is_taken_is_said(served, telling):
    with served(telling) as server, pytest.raises(OSError, match="in use"):
        served(TellingPolicy(), int(server.address.rsplit(":")[-1]))


def test_comings_and_goings_are_reported(served, telling, lines):
    with served(telling) as server:
        RemotePolicy(server.address).close()
        for _ in range(100):
            if len(lines) == 2:
                break
            time.sleep(0.02)
    assert lines[0].endswith("came")
    assert lines[1].endswith("left after 0 requests")
