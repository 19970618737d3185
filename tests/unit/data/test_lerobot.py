import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pizero.data import lerobot_layout as layout
from pizero.data import preload
from pizero.data.images import resize_with_pad
from pizero.data.lerobot import LeRobotDataset, LeRobotWriter
from pizero.data.recording import CorruptPicture
from pizero.embodiment import Embodiment

LENGTHS = (5, 7, 4)
SIZES = {"front": (32, 48), "wrist": (24, 24)}
Write = Callable[..., Path]


def test_what_was_written_is_read_back(dataset: LeRobotDataset, episodes, robot: Embodiment) -> None:
    frames = [frame for episode, _ in episodes for frame in episode]
    np.testing.assert_array_equal(dataset.state, [frame.state for frame in frames])
    np.testing.assert_array_equal(dataset.actions, np.concatenate([actions for _, actions in episodes]))
    assert dataset.state.dtype == dataset.actions.dtype == np.float32
    assert dataset.num_frames == sum(LENGTHS)
    assert [dataset.prompt(i) for i in range(16)] == [frame.prompt for frame in frames]
    assert dataset.prompts == ("open the drawer", "close it")
    assert dataset.embodiment == robot
    assert dataset.rate_hz == 12.5
    assert [(e.index, e.start, e.length, e.task) for e in dataset.episodes] == [
        (0, 0, 5, "open the drawer"),
        (1, 5, 7, "close it"),
        (2, 12, 4, "open the drawer"),
    ]
    assert dataset.episodes[1].extra == {"seed": 101, "success": True}


def test_every_picture_is_the_one_of_its_frame_in_any_order(dataset: LeRobotDataset, episodes) -> None:
    frames = [frame for episode, _ in episodes for frame in episode]
    again = [10, 10, 3, 3, 4, 3]  # 10 / 12.5 s is above itself in float32
    order = np.random.default_rng(1).permutation(16).tolist() + list(range(16)) + again
    for i in order:
        for camera in SIZES:
            picture = dataset.image(i, camera)
            assert picture.shape == frames[i].images[camera].shape
            # neighbouring frames differ by 12
            assert np.abs(picture.astype(int) - frames[i].images[camera]).mean() < 4, (i, camera)


def test_preloaded_pictures_are_the_decoded_ones(root: Path) -> None:
    decoded, preloaded = LeRobotDataset(root), LeRobotDataset(root)
    assert preloaded.preloaded("front") is None
    preloaded.preload()
    for i in range(16):
        for camera in SIZES:
            np.testing.assert_array_equal(preloaded.frame(i).images[camera], decoded.frame(i).images[camera])


def test_several_processes_preload_the_same_pictures(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, shared = LeRobotDataset(root), LeRobotDataset(root)
    here.preload((4, 6))
    monkeypatch.setattr(preload, "FRAMES_PER_PROCESS", 4)
    monkeypatch.setattr(preload, "FRAMES_PER_TASK", 2)
    monkeypatch.setattr(preload.os, "cpu_count", lambda: 2)

    def refuse(*_: object) -> None:
        raise AssertionError("it is not this process that decodes")

    monkeypatch.setattr(preload._Decoding, "__call__", refuse)
    shared.preload((4, 6))
    for camera in SIZES:
        np.testing.assert_array_equal(shared.preloaded(camera), here.preloaded(camera))


def test_a_damaged_picture_is_named_also_by_another_process(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = LeRobotDataset(shutil.copytree(root, tmp_path / "copy"))
    next(dataset.root.glob("videos/*front*/**/*.mp4")).write_bytes(b"no video")
    monkeypatch.setattr(preload, "FRAMES_PER_PROCESS", 4)
    monkeypatch.setattr(preload.os, "cpu_count", lambda: 2)
    with pytest.raises(CorruptPicture, match="cannot be read as a video"):
        dataset.preload((4, 6))


def test_preloading_resizes_when_asked(root: Path) -> None:
    decoded, preloaded = LeRobotDataset(root), LeRobotDataset(root)
    preloaded.preload((24, 24))
    assert preloaded.preloaded("front").shape == (16, 24, 24, 3)
    np.testing.assert_array_equal(preloaded.image(9, "front"), resize_with_pad(decoded.image(9, "front"), (24, 24)))
    np.testing.assert_array_equal(preloaded.image(9, "wrist"), decoded.image(9, "wrist"))


def test_few_open_videos_are_enough(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pizero.data.lerobot.MAX_OPEN_VIDEOS", 1)
    dataset, other = LeRobotDataset(root), LeRobotDataset(root)
    for i in (0, 8, 3):
        for camera in SIZES:
            np.testing.assert_array_equal(dataset.image(i, camera), other.image(i, camera))
        assert len(dataset._videos) == 1


def test_a_chunk_repeats_the_last_action_after_the_end_of_its_episode(dataset: LeRobotDataset) -> None:
    values, real = dataset.chunk(10, 4)  # frames 10 and 11 are the last of episode 1
    assert real.tolist() == [True, True, False, False]
    np.testing.assert_array_equal(values, dataset.actions[[10, 11, 11, 11]])
    values, real = dataset.chunk(12, 4)
    assert real.all()
    np.testing.assert_array_equal(values, dataset.actions[12:16])
    values, real = dataset.chunk(15, 2)
    np.testing.assert_array_equal(values, dataset.actions[[15, 15]])


def test_chunks_are_the_chunk_of_each_frame(dataset: LeRobotDataset) -> None:
    indices = np.array([4, 0, 15, 11, 5])
    values, real = dataset.chunks(indices, 6)
    for row, i in enumerate(indices):
        one = dataset.chunk(int(i), 6)
        np.testing.assert_array_equal(values[row], one[0])
        np.testing.assert_array_equal(real[row], one[1])


def test_the_folder_appears_only_when_everything_is_written(robot: Embodiment, episodes, tmp_path: Path) -> None:
    root = tmp_path / "data"

    def interrupted() -> None:
        with LeRobotWriter(root, robot, SIZES) as writer:
            writer.add_episode(*episodes[0], {})
            assert not root.exists()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_left_behind_is_overwritten(write: Write, tmp_path: Path) -> None:
    (tmp_path / "data.part" / "data").mkdir(parents=True)
    (tmp_path / "data.part" / "data" / "junk").write_text("x")
    root = write()
    assert not (root / "data" / "junk").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_an_existing_folder_is_not_overwritten(root: Path, robot: Embodiment) -> None:
    with pytest.raises(ValueError, match="exists already"):
        LeRobotWriter(root, robot, SIZES)


def test_an_episode_that_does_not_fit_is_refused_and_the_writer_goes_on(robot: Embodiment, episodes, tmp_path) -> None:
    frames, actions = episodes[0]
    nan = actions.copy()
    nan[2, 1] = np.nan
    bad_state = [*frames[:3], replace(frames[3], state=np.array([0, np.inf, 0], np.float32)), frames[4]]
    short_state = [replace(frames[0], state=frames[0].state[:2])]
    bad_image = [replace(frames[0], images={"front": frames[0].images["front"]}), *frames[1:]]
    with LeRobotWriter(tmp_path / "data", robot, SIZES) as writer:
        writer.add_episode(frames, actions, {"seed": 1})
        for arguments, message in (
            (([], actions[:0], {"seed": 2}), "episode 1 has no frames"),
            ((frames, actions[:4], {"seed": 2}), r"actions of shape \(4, 2\); for its 5 frames toy needs \(5, 2\)"),
            ((frames, nan, {"seed": 2}), "episode 1, frame 2: action 'grip' is nan"),
            ((bad_state, actions, {"seed": 2}), "episode 1, frame 3: state 'y' is inf"),
            ((bad_image, actions, {"seed": 2}), r"frame 0 has images \{'front': \(32, 48\)\}, the data set takes"),
            ((short_state, actions[:1], {"seed": 2}), "state of 2 values, toy has 3"),
            ((frames, actions, {"seeed": 2}), r"extra \['seeed'\], the episodes before have \['seed'\]"),
        ):
            with pytest.raises(ValueError, match=message):
                writer.add_episode(*arguments)
        writer.add_episode(*episodes[1], {"seed": 3})
    dataset = LeRobotDataset(tmp_path / "data")
    assert [episode.length for episode in dataset.episodes] == [5, 7]
    np.testing.assert_array_equal(dataset.actions[5:], episodes[1][1])


def test_no_episode_or_odd_pictures_make_no_data_set(robot: Embodiment, episodes, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no episode was added"), LeRobotWriter(tmp_path / "data", robot, SIZES):
        pass
    with pytest.raises(ValueError, match="image sizes are for"):
        LeRobotWriter(tmp_path / "data", robot, {"front": (32, 48)})
    odd = [replace(f, images={c: image[:, 1:] for c, image in f.images.items()}) for f in episodes[0][0]]
    with (
        pytest.raises(ValueError, match=r"32 x 47, both sides must be even"),
        LeRobotWriter(tmp_path / "data", robot, {"front": (32, 47), "wrist": (24, 23)}) as writer,
    ):
        writer.add_episode(odd, episodes[0][1])
    assert list(tmp_path.iterdir()) == []


def test_files_are_split_at_the_size_limit_and_read_back(
    robot: Embodiment, episodes, write: Write, monkeypatch: pytest.MonkeyPatch, root: Path
) -> None:
    monkeypatch.setattr(layout, "DATA_FILE_MB", 500 / layout.MB)
    monkeypatch.setattr(layout, "VIDEO_FILE_MB", 1500 / layout.MB)
    monkeypatch.setattr(layout, "CHUNK_SIZE", 2)
    split = write()
    names = sorted(str(path.relative_to(split)) for path in split.rglob("*") if path.suffix in (".parquet", ".mp4"))
    assert "data/chunk-000/file-001.parquet" in names
    assert "data/chunk-001/file-000.parquet" in names
    assert "videos/observation.images.front/chunk-000/file-001.mp4" in names
    dataset, whole = LeRobotDataset(split), LeRobotDataset(root)
    np.testing.assert_array_equal(dataset.actions, whole.actions)
    frames = [frame for episode, _ in episodes for frame in episode]
    for i in range(16):
        for camera in SIZES:
            assert np.abs(dataset.image(i, camera).astype(int) - frames[i].images[camera]).mean() < 4, (i, camera)


def test_one_state_dimension_and_no_camera_can_be_written_and_read(robot: Embodiment, episodes, tmp_path: Path) -> None:
    blind = replace(robot, cameras=(), state=("x",))
    frames = [replace(frame, images={}, state=frame.state[:1]) for frame in episodes[0][0]]
    with LeRobotWriter(tmp_path / "data", blind, {}) as writer:
        writer.add_episode(frames, episodes[0][1])
    dataset = LeRobotDataset(tmp_path / "data")
    np.testing.assert_array_equal(dataset.state, [frame.state for frame in frames])
    assert dataset.frame(2).images == {}
    none = replace(blind, state=())
    with LeRobotWriter(tmp_path / "none", none, {}) as writer:
        writer.add_episode([replace(frame, state=frame.state[:0]) for frame in frames], episodes[0][1])
    assert LeRobotDataset(tmp_path / "none").state.shape == (5, 0)


def test_a_data_set_without_our_embodiment_gets_its_names_and_the_range_of_its_actions(write: Write) -> None:
    root = write()
    (root / layout.EMBODIMENT).unlink()
    dataset = LeRobotDataset(root)
    robot = dataset.embodiment
    assert (robot.name, robot.cameras, robot.control_rate_hz) == ("toy", ("front", "wrist"), 12.5)
    assert (robot.state, robot.actions) == (("x", "y", "angle"), ("dx", "grip"))
    np.testing.assert_array_equal(np.float32(robot.action_low), dataset.actions.min(0))
    np.testing.assert_array_equal(np.float32(robot.action_high), dataset.actions.max(0))


@pytest.mark.parametrize("names", [{"motors": ["a", "b", "c"]}, None, ["too", "few"]])
def test_names_of_dimensions_are_found_in_the_forms_that_lerobot_writes(write: Write, names) -> None:
    root = write()
    (root / layout.EMBODIMENT).unlink()
    info = json.loads((root / layout.INFO).read_text())
    info["features"]["observation.state"]["names"] = names
    (root / layout.INFO).write_text(json.dumps(info))
    expected = ("a", "b", "c") if isinstance(names, dict) else ("state_0", "state_1", "state_2")
    assert LeRobotDataset(root).embodiment.state == expected


# what can be wrong with a folder


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def change_info(root: Path, **values) -> None:
    info = json.loads((root / layout.INFO).read_text())
    (root / layout.INFO).write_text(json.dumps(info | values))


def change_column(path: Path, name: str, change: Callable[[list], list]) -> None:
    table = pq.read_table(path)
    i = table.column_names.index(name)
    pq.write_table(table.set_column(i, name, pa.array(change(table[name].to_pylist()), table[name].type)), path)


DATA = "data/chunk-000/file-000.parquet"
EPISODES = "meta/episodes/chunk-000/file-000.parquet"
VIDEO = "videos/observation.images.wrist/chunk-000/file-000.mp4"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: truncate(root / DATA), "data/chunk-000/file-000.parquet is damaged or truncated"),
        (lambda root: truncate(root / EPISODES), "episodes/chunk-000/file-000.parquet is damaged or truncated"),
        (lambda root: truncate(root / layout.INFO), "info.json is not valid JSON"),
        (lambda root: (root / layout.INFO).unlink(), "info.json is missing"),
        (lambda root: (root / DATA).unlink(), "data/chunk-000/file-000.parquet is missing"),
        (lambda root: (root / layout.TASKS).unlink(), "tasks.parquet is missing"),
        (lambda root: shutil.rmtree(root / "meta/episodes"), "meta/episodes has no parquet file"),
        (lambda root: (root / VIDEO).unlink(), "file-000.mp4 is missing; episode 0 needs it for camera"),
        (
            lambda root: change_column(root / DATA, "action", lambda x: [[float("nan"), 0], *x[1:]]),
            "file-000.parquet: 'action' is nan in row 0, dimension 0",
        ),
        (
            lambda root: change_column(root / DATA, "observation.state", lambda x: [*x[:-1], [0, float("inf"), 0]]),
            "file-000.parquet: 'observation.state' is inf in row 15, dimension 1",
        ),
        (lambda root: change_info(root, total_frames=0), "is empty"),
        (lambda root: change_info(root, total_frames=17), "has 16 frames in its data files, info.json says 17"),
        (lambda root: change_info(root, total_episodes=4), "lists 3 episodes, info.json says 4"),
        (lambda root: change_info(root, codebase_version="v1.6"), "format 'v1.6' is not read"),
        (lambda root: change_info(root, features={}), "no feature 'action'"),
        (lambda root: change_column(root / EPISODES, "length", lambda x: [5, 0, 11]), "episode 1 has no frames"),
        (lambda root: change_column(root / EPISODES, "length", lambda x: [6, 6, 4]), "not where the table"),
        (lambda root: change_column(root / EPISODES, "length", lambda x: [5, None, 4]), r"no \['length'\]"),
        (lambda root: change_column(root / DATA, "task_index", lambda x: [2] * 16), "task_index 2 .* 2 tasks"),
        (
            lambda root: pq.write_table(pq.read_table(root / DATA).drop(["action"]), root / DATA),
            r"lacks .*\['action'\]",
        ),
        (
            lambda root: change_info(
                root,
                features=json.loads((root / layout.INFO).read_text())["features"]
                | {"action": {"dtype": "float32", "shape": [3], "names": None}},
            ),
            "'action' does not have the 3 values per frame",
        ),
        (
            lambda root: (root / layout.EMBODIMENT).write_text(
                (root / layout.EMBODIMENT).read_text().replace('"angle"', '"angle", "more"')
            ),
            "embodiment.json names 4 state dimensions, the data has 3",
        ),
        (
            lambda root: (root / layout.EMBODIMENT).write_text(
                (root / layout.EMBODIMENT).read_text().replace('"name"', '"nome"')
            ),
            "embodiment.json: embodiment has keys",
        ),
    ],
)
def test_a_damaged_folder_is_refused_in_one_line_that_names_the_place(
    write: Write, damage: Callable[[Path], None], message: str
) -> None:
    root = write()
    damage(root)
    with pytest.raises(ValueError, match=message) as error:
        LeRobotDataset(root)
    assert "\n" not in str(error.value)
    assert str(root) in str(error.value)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere/meta/info.json is missing"):
        LeRobotDataset(tmp_path / "nowhere")


def test_a_truncated_video_is_refused_with_its_name(write: Write) -> None:
    root = write()
    truncate(root / VIDEO)
    dataset = LeRobotDataset(root)
    with pytest.raises(ValueError, match=r"wrist/chunk-000/file-000.mp4 cannot be read as a video") as error:
        dataset.image(0, "wrist")
    assert "\n" not in str(error.value)


def test_a_video_with_fewer_frames_than_the_table_says_is_refused(write: Write, tmp_path: Path, root: Path) -> None:
    damaged = write()
    change_column(
        damaged / EPISODES, "videos/observation.images.wrist/from_timestamp", lambda x: [*x[:-1], 2.0]
    )  # 16 frames end at 1.28 s
    dataset = LeRobotDataset(damaged)
    dataset.image(0, "wrist")
    with pytest.raises(ValueError, match=r"file-000.mp4 ends before 2.000 s"):
        dataset.image(12, "wrist")


def test_the_older_format_is_read_alike(root: Path, tmp_path: Path) -> None:
    """v2.1: a parquet and an mp4 per episode, episodes and tasks as lines of JSON."""
    old, new = tmp_path / "old", LeRobotDataset(root)
    (old / "meta").mkdir(parents=True)
    info = json.loads((root / layout.INFO).read_text()) | {
        "codebase_version": "v2.1",
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": None,
    }
    info["features"] = {key: value for key, value in info["features"].items() if value["dtype"] != "video"}
    (old / layout.INFO).write_text(json.dumps(info))
    rows = [{"task_index": i, "task": task} for i, task in enumerate(new.prompts)]
    (old / "meta/tasks.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    rows = [{"episode_index": e.index, "tasks": [e.task], "length": e.length} for e in reversed(new.episodes)]
    (old / "meta/episodes.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    (old / "data/chunk-000").mkdir(parents=True)
    table = pq.read_table(root / DATA)
    for e in new.episodes:
        pq.write_table(table.slice(e.start, e.length), old / f"data/chunk-000/episode_{e.index:06d}.parquet")
    dataset = LeRobotDataset(old)
    np.testing.assert_array_equal(dataset.actions, new.actions)
    np.testing.assert_array_equal(dataset.state, new.state)
    assert [dataset.prompt(i) for i in range(16)] == [new.prompt(i) for i in range(16)]
    assert [(e.start, e.length) for e in dataset.episodes] == [(e.start, e.length) for e in new.episodes]


def test_a_robot_of_unknown_rate_cannot_be_recorded(robot: Embodiment, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="control rate of toy is not known"):
        LeRobotWriter(tmp_path / "data", replace(robot, control_rate_hz=None), SIZES)
