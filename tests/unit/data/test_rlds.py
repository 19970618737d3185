import json
import multiprocessing
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rlds_files import (
    BRIDGE_STEP,
    FRACTAL_STEP,
    bridge_episode,
    encoded,
    features_json,
    fractal_episode,
    picture,
    write_rlds,
)

from pizero.data.recording import CorruptPicture
from pizero.data.rlds import RldsDataset
from pizero.data.rlds_cache import cache_folder
from pizero.data.rlds_gripper import binary_gripper
from pizero.robot.bridge import BRIDGE
from pizero.robot.fractal import FRACTAL

PROMPTS = ["put the carrot on the plate", "", "stack the blocks"]
OTHER_STEP = {
    "action": ("float64", [3]),
    "observation/wrist": "picture",
    "observation/top": "picture",
    "observation/depth": "depth",
    "observation/state": ("float32", [2]),
    "language_instruction": "text",
    "reward": ("float32", []),
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return cache_folder()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two files; the second episode of the first has no instruction."""
    episodes = [bridge_episode(n, seed, prompt) for n, seed, prompt in zip((5, 4, 7), (1, 2, 3), PROMPTS, strict=True)]
    return write_rlds(tmp_path / "1.0.0", "bridge_dataset", BRIDGE_STEP, [episodes[:2], episodes[2:]])


def other_episode(length: int, seed: int = 0) -> dict:
    random = np.random.default_rng(seed)
    return {
        "action": random.normal(size=3 * length).astype(np.float32),
        "observation/wrist": [encoded(picture(10 + i)) for i in range(length)],
        "observation/top": [encoded(picture(100 + i, (6, 6)), "JPEG") for i in range(length)],
        "observation/depth": [b""] * length,
        "observation/state": random.normal(size=2 * length).astype(np.float32),
        "language_instruction": [b"do it"] * length,
        "reward": np.zeros(length, np.float32),
    }


def level(image: np.ndarray) -> int:
    return int(image[1:].mean().round())


def test_bridge_is_read_as_the_robot_of_the_simulator(root: Path) -> None:
    dataset = RldsDataset(root)
    assert dataset.embodiment == BRIDGE
    assert dataset.rate_hz == 5.0
    assert dataset.prompts == ("put the carrot on the plate", "stack the blocks")
    assert dataset.num_unlabelled == 1
    assert [(e.index, e.start, e.length, e.task) for e in dataset.episodes] == [
        (0, 0, 4, "put the carrot on the plate"),  # the last step of each episode is left out
        (1, 4, 6, "stack the blocks"),
    ]
    assert [dataset.prompt(i) for i in (3, 4)] == list(dataset.prompts)
    raw = [bridge_episode(5, 1), bridge_episode(7, 3)]
    states = [episode["observation/state"].reshape(-1, 7) for episode in raw]
    np.testing.assert_array_equal(dataset.state, np.concatenate([state[:-1] for state in states]))
    moved = np.concatenate([np.diff(state[:, :6], axis=0) for state in states])
    np.testing.assert_array_equal(dataset.actions[:, :6], moved)
    grippers = [binary_gripper(episode["action"].reshape(-1, 7)[:, 6])[:-1] for episode in raw]
    np.testing.assert_array_equal(dataset.actions[:, 6], np.concatenate(grippers))
    assert grippers[0].tolist() == [1, 0, 0, 0]
    assert dataset.state.dtype == dataset.actions.dtype == np.float32


def test_every_picture_is_the_one_of_its_frame_in_any_order(root: Path) -> None:
    dataset = RldsDataset(root)
    levels = [20, 21, 22, 23, 60, 61, 62, 63, 64, 65]
    for i in np.random.default_rng(0).permutation(10):
        image = dataset.image(i, "image_primary")
        np.testing.assert_array_equal(image, picture(levels[i]))
        assert dataset.frame(i).images["image_primary"].dtype == np.uint8
    dataset.preload((4, 4))
    assert dataset.preloaded("image_primary").shape == (10, 4, 4, 3)


def test_chunks_end_with_their_episode(root: Path) -> None:
    dataset = RldsDataset(root)
    values, real = dataset.chunk(2, 4)
    np.testing.assert_array_equal(values, dataset.actions[[2, 3, 3, 3]])
    assert real.tolist() == [True, True, False, False]


def test_fractal_is_read_as_the_robot_of_the_simulator(tmp_path: Path) -> None:
    episode = fractal_episode(6, [0, 1, 0, 0, -1, 0])
    dataset = RldsDataset(write_rlds(tmp_path / "0.1.0", "fractal20220817_data", FRACTAL_STEP, [[episode]]))
    assert dataset.embodiment == FRACTAL
    assert dataset.num_frames == 6  # no step is left out
    np.testing.assert_array_equal(dataset.actions[:, 6], [1, 0, 0, 0, 1, 1])
    np.testing.assert_array_equal(dataset.actions[:, :3].ravel(), episode["action/world_vector"])
    np.testing.assert_array_equal(dataset.actions[:, 3:6].ravel(), episode["action/rotation_delta"])
    np.testing.assert_array_equal(dataset.state[:, :7].ravel(), episode["observation/base_pose_tool_reached"])
    np.testing.assert_array_equal(dataset.state[:, 7], episode["observation/gripper_closed"])
    assert dataset.prompts == ("pick coke can",)
    np.testing.assert_array_equal(dataset.image(4, "image_primary"), picture(4))


def test_any_other_data_set_is_taken_as_it_is(tmp_path: Path) -> None:
    root = write_rlds(tmp_path / "1.0.0", "my_robot", OTHER_STEP, [[other_episode(3)], [other_episode(2, 1)]])
    dataset = RldsDataset(root)
    robot = dataset.embodiment
    assert (robot.name, robot.cameras, robot.control_rate_hz) == ("my_robot", ("wrist", "top"), None)
    assert (robot.state, robot.actions) == (("state_0", "state_1"), ("action_0", "action_1", "action_2"))
    assert robot.gripper_action == "unknown"
    np.testing.assert_array_equal(np.float32(robot.action_high), dataset.actions.max(0))
    expected = [other_episode(3)["action"], other_episode(2, 1)["action"]]
    np.testing.assert_array_equal(dataset.actions.ravel(), np.concatenate(expected))
    assert [episode.length for episode in dataset.episodes] == [3, 2]
    np.testing.assert_array_equal(dataset.image(4, "wrist"), picture(11))
    assert abs(level(dataset.image(4, "top")) - 101) <= 1
    mixed = [other_episode(2) | {"observation/wrist": [encoded(picture(0)), encoded(picture(0, (9, 9)))]}]
    dataset = RldsDataset(write_rlds(tmp_path / "2.0.0", "my_robot", OTHER_STEP, [mixed]))
    with pytest.raises(ValueError, match=r"pictures of camera 'wrist' have shapes \(8, 10, 3\) and \(9, 9, 3\)"):
        dataset.preload()


def test_jpegs_are_decoded_as_their_library_does(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    smooth = np.asarray(Image.fromarray(random.integers(0, 255, (6, 6, 3), np.uint8)).resize((64, 48)))
    episode = other_episode(1) | {"observation/top": [encoded(smooth, "JPEG")]}
    dataset = RldsDataset(write_rlds(tmp_path / "1.0.0", "my_robot", OTHER_STEP, [[episode]]))
    image = dataset.image(0, "top")
    assert image.shape == (48, 64, 3)
    assert np.abs(image.astype(int) - smooth).max() < 40
    assert np.abs(image.astype(int) - smooth).mean() < 4


def test_the_validation_part_is_a_split_of_its_own(root: Path) -> None:
    write_rlds(root, "bridge_dataset", BRIDGE_STEP, [[bridge_episode(3, 8)]], split="val")
    write_rlds(root, "bridge_dataset", BRIDGE_STEP, [[bridge_episode(4, 9)]], split="test")
    assert RldsDataset(root, "val").num_frames == 2
    np.testing.assert_array_equal(RldsDataset(root, "val").image(1, "image_primary"), picture(161))
    assert RldsDataset(root).num_frames == 10
    with pytest.raises(ValueError, match=r"no split 'vall', but \['test', 'train', 'val'\]; nearest: 'val'"):
        RldsDataset(root, "vall")


def decoded_in_another_process(dataset: RldsDataset, queue) -> None:
    queue.put((os.getpid(), dataset.image(7, "image_primary").tobytes()))


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_another_process_decodes_the_same_picture(root: Path, start: str) -> None:
    dataset = RldsDataset(root)
    here = dataset.image(7, "image_primary").tobytes()
    context = multiprocessing.get_context(start)
    queue = context.Queue()
    process = context.Process(target=decoded_in_another_process, args=(dataset, queue), daemon=True)
    process.start()
    process_id, there = queue.get(timeout=60)
    process.join(60)
    assert process_id != os.getpid()
    assert there == here
    again = pickle.loads(pickle.dumps(dataset))
    assert again.image(7, "image_primary").tobytes() == here


# the cache


def test_the_index_is_kept_until_a_file_changes(root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = RldsDataset(root)
    (file,) = cache.iterdir()
    with monkeypatch.context() as patch:
        patch.setattr("pizero.data.rlds_cache.make_index", lambda *_: pytest.fail("read again"))
        again = RldsDataset(root)
    np.testing.assert_array_equal(again.actions, first.actions)
    np.testing.assert_array_equal(again.state, first.state)
    np.testing.assert_array_equal(again.image(9, "image_primary"), first.image(9, "image_primary"))
    assert (again.prompts, again.episodes, again.num_unlabelled) == (first.prompts, first.episodes, 1)
    episodes = [bridge_episode(n, seed) for n, seed in ((6, 4), (2, 1), (3, 5))]  # as many in each file as before
    write_rlds(root, "bridge_dataset", BRIDGE_STEP, [episodes[:2], episodes[2:]])
    assert RldsDataset(root).num_frames == 8
    assert list(cache.iterdir()) == [file]


def test_a_cache_that_is_damaged_is_made_anew(root: Path, cache: Path) -> None:
    RldsDataset(root)
    (file,) = cache.iterdir()
    for content in (b"", b"not a zip", file.read_bytes()[:300]):
        file.write_bytes(content)
        assert RldsDataset(root).num_frames == 10
        assert len(list(cache.iterdir())) == 1


def test_a_cache_that_cannot_be_written_is_an_error_that_says_what_to_do(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(ValueError, match="set XDG_CACHE_HOME to a folder that can"):
        RldsDataset(root)


# what can be wrong with a folder

FIRST = "bridge_dataset-train.tfrecord-00000-of-00002"
SECOND = "bridge_dataset-train.tfrecord-00001-of-00002"


def change_json(path: Path, change: Callable[[dict], None]) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def with_episode(**changes) -> Callable[[Path], None]:
    """Writes the folder anew with another second file, whose first episode is right and the second changed."""

    def write(root: Path) -> None:
        first, changed = bridge_episode(3, 1), bridge_episode(3, 2)
        for name, value in changes.items():
            changed["observation/" + name if name in ("state", "image_0") else name] = value
        changed = {name: value for name, value in changed.items() if value is not None}
        write_rlds(root, "bridge_dataset", BRIDGE_STEP, [[first], [first, changed]])

    return write


def nan(size: int, place: int, value: float = np.nan) -> np.ndarray:
    values = np.zeros(size, np.float32)
    values[place] = value
    return values


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: (root / SECOND).unlink(), f"{SECOND} is missing; dataset_info.json lists 2 files"),
        (lambda root: (root / SECOND).write_bytes((root / SECOND).read_bytes()[:-9]), f"{SECOND}: record 0.*truncated"),
        (lambda root: (root / SECOND).write_bytes(b""), f"{SECOND} is empty, dataset_info.json says 1"),
        (lambda root: (root / SECOND).write_bytes(b"<html>404 not found</html>"), f"{SECOND}: record 0.*no TFRecord"),
        (lambda root: (root / FIRST).write_bytes((root / SECOND).read_bytes()), f"{FIRST} has 1 episodes.*says 2"),
        (lambda root: (root / "dataset_info.json").write_text("{"), "dataset_info.json is not valid JSON"),
        (lambda root: (root / "dataset_info.json").write_text("{}"), r"lacks \['name', 'splits'\]"),
        (lambda root: (root / "features.json").write_text("{}"), "features.json has no steps"),
        (
            lambda root: change_json(root / "dataset_info.json", lambda info: info.update(fileFormat="array_record")),
            "files are of the format 'array_record', only 'tfrecord' is read",
        ),
        (
            lambda root: change_json(
                root / "dataset_info.json", lambda info: info["splits"][0].update(shardLengths=[])
            ),
            "is empty: dataset_info.json says that its split 'train' has no episodes",
        ),
        (with_episode(state=nan(21, 9)), f"{SECOND}: record 1: 'observation/state' is nan in step 1, dimension 2"),
        (with_episode(action=nan(21, 20, np.inf)), f"{SECOND}: record 1: 'action' is inf in step 2, dimension 6"),
        (with_episode(action=nan(20, 0, 1)), "record 1: 'action' has 20 numbers, expected 7 for each of 3 steps"),
        (with_episode(action=[b"x"] * 3), "record 1: it holds bytes, expected floats"),
        (with_episode(action=None), "record 1: there is no 'steps/action'"),
        (with_episode(image_0=[b"x"] * 2), "record 1: 'observation/image_0' has 2 pictures for 3 steps"),
        (with_episode(language_instruction=[]), "record 1: the episode has no steps"),
        (with_episode(language_instruction=[b"\xff\xfe"] * 3), "record 1: .*utf-8"),
        (
            lambda root: write_rlds(root, "bridge_dataset", BRIDGE_STEP, [[bridge_episode(3, 1, "  ")]]),
            "no episode has frames and an instruction",
        ),
    ],
)
def test_a_damaged_folder_is_refused_in_one_line_that_names_the_place(
    root: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(root)
    with pytest.raises(ValueError, match=message) as error:
        RldsDataset(root)
    assert "\n" not in str(error.value)
    assert str(root) in str(error.value)


@pytest.mark.parametrize(
    ("name", "step", "message"),
    [
        (
            "bridge_dataset",
            OTHER_STEP,
            r"features.json: no feature of bridge_dataset 'observation/image_0' \(picture\)",
        ),
        (
            "bridge_dataset",
            BRIDGE_STEP | {"action": ("float32", [8])},
            r"'action' has shape \(8,\), expected 7 numbers",
        ),
        ("mine", FRACTAL_STEP, r"no state 'observation/state' or 'observation/proprio' \(numbers\) in a step; of this"),
        (
            "mine",
            {k: v for k, v in OTHER_STEP.items() if k != "action"} | {"action/x": ("float32", [2])},
            r"no actions 'action' \(numbers\) in a step; of this kind there are \['action/x'",
        ),
        ("mine", OTHER_STEP | {"language_instruction": ("int32", [9])}, r"no instruction 'language_instruction' or"),
        ("mine", {k: v for k, v in OTHER_STEP.items() if v != "picture"}, "no feature of a step is a colour picture"),
    ],
)
def test_features_that_cannot_be_read_are_told_with_what_there_is(
    root: Path, name: str, step: dict, message: str
) -> None:
    change_json(root / "dataset_info.json", lambda info: info.update(name=name))
    (root / "features.json").write_text(json.dumps(features_json(step)))
    with pytest.raises(ValueError, match=message) as error:
        RldsDataset(root)
    assert "features.json" in str(error.value)


def test_a_picture_that_is_damaged_is_told_with_file_episode_and_step(root: Path) -> None:
    path = root / SECOND
    dataset = RldsDataset(root)
    data = path.read_bytes()
    wanted = encoded(picture(62))  # frame 6: step 2 of the only episode of the second file
    assert data.count(wanted) == 1
    path.write_bytes(data.replace(wanted, wanted[:40] + b"\0" * (len(wanted) - 40)))
    assert RldsDataset(root).num_frames == 10
    for broken in (dataset, RldsDataset(root)):
        with pytest.raises(CorruptPicture, match=f"{SECOND}: episode 0, step 2: picture 'image_primary' cannot be"):
            broken.image(6, "image_primary")
        np.testing.assert_array_equal(broken.image(7, "image_primary"), picture(63))
    with path.open("r+b") as file:
        file.truncate(len(data) // 2)
    with pytest.raises(CorruptPicture, match=f"{SECOND}: episode 0, step 5: .* the file ends before byte"):
        dataset.image(9, "image_primary")


def test_an_episode_of_one_step_is_left_out_where_only_movements_count(tmp_path: Path) -> None:
    episodes = [bridge_episode(1, 0), bridge_episode(3, 1)]
    dataset = RldsDataset(write_rlds(tmp_path / "1.0.0", "bridge_dataset", BRIDGE_STEP, [episodes]))
    assert [(e.start, e.length) for e in dataset.episodes] == [(0, 2)]
    np.testing.assert_array_equal(dataset.image(0, "image_primary"), picture(20))
