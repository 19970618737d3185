"""Where a LeRobot folder keeps its pictures: one video for many episodes, one for each, or PNG in the tables."""

import io
import json
import multiprocessing
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pizero.data import lerobot_layout as layout
from pizero.data.lerobot import LeRobotDataset
from pizero.data.recording import CorruptPicture
from pizero.data.video import VideoWriter

FRONT = "observation.images.front"
DATA = "data/chunk-000/file-000.parquet"
OLD_DATA = "data/chunk-{:03d}/episode_{:06d}.parquet"
OLD_VIDEO = "videos/chunk-{:03d}/{}/episode_{:06d}.mp4"
RATE = 12.5
Write = Callable[..., Path]


def change_info(root: Path, change: Callable[[dict], None]) -> None:
    info = json.loads((root / layout.INFO).read_text())
    change(info)
    (root / layout.INFO).write_text(json.dumps(info))


def make_old(root: Path, old: Path, episodes, chunks_size: int = 1000, with_patterns: bool = True) -> Path:
    """The same data set as v2.1: a table and a video per episode, in chunks of `chunks_size` episodes."""
    new = LeRobotDataset(root)
    (old / "meta").mkdir(parents=True)
    info = json.loads((root / layout.INFO).read_text()) | {"codebase_version": "v2.1", "chunks_size": chunks_size}
    del info["data_path"], info["video_path"]
    if with_patterns:
        info["data_path"] = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
        info["video_path"] = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
    (old / layout.INFO).write_text(json.dumps(info))
    shutil.copy(root / layout.EMBODIMENT, old / layout.EMBODIMENT)
    rows = [{"task_index": i, "task": task} for i, task in enumerate(new.prompts)]
    (old / "meta/tasks.jsonl").write_text("\n".join(map(json.dumps, rows)))
    rows = [{"episode_index": e.index, "tasks": [e.task], "length": e.length} for e in new.episodes]
    (old / "meta/episodes.jsonl").write_text("\n".join(map(json.dumps, rows)))
    table = pq.read_table(root / DATA)
    for e, (frames, _) in zip(new.episodes, episodes, strict=True):
        place = e.index // chunks_size
        path = old / OLD_DATA.format(place, e.index)
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table.slice(e.start, e.length), path)
        for camera in frames[0].images:
            path = old / OLD_VIDEO.format(place, f"observation.images.{camera}", e.index)
            path.parent.mkdir(parents=True, exist_ok=True)
            writer = VideoWriter(path, frames[0].images[camera].shape[:2], RATE)
            for frame in frames:
                writer.add(frame.images[camera])
            writer.close()
    return old


def make_images(root: Path, episodes, group: int = 4, beside: bool = False) -> Path:
    """Changes a folder: the front camera's pictures are PNG in the tables, `group` rows in each row group."""
    table = pq.read_table(root / DATA)
    cells = []
    for number, image in enumerate(frame.images["front"] for frames, _ in episodes for frame in frames):
        out, path = io.BytesIO(), f"images/front/{number}.png"
        Image.fromarray(image).save(out, "PNG")
        if beside:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(out.getvalue())
        cells.append({"bytes": None if beside else out.getvalue(), "path": path})
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    pq.write_table(table.append_column(FRONT, pa.array(cells, kind)), root / DATA, row_group_size=group)
    change_info(root, lambda info: info["features"][FRONT].update(dtype="image"))
    shutil.rmtree(root / f"videos/{FRONT}")
    return root


def all_pictures(episodes, camera: str) -> list[np.ndarray]:
    return [frame.images[camera] for frames, _ in episodes for frame in frames]


@pytest.mark.parametrize(("chunks_size", "with_patterns"), [(1000, True), (2, True), (1000, False)])
def test_the_older_format_has_a_video_for_each_episode(
    root: Path, tmp_path: Path, episodes, chunks_size: int, with_patterns: bool
) -> None:
    old = LeRobotDataset(make_old(root, tmp_path / "old", episodes, chunks_size, with_patterns))
    new = LeRobotDataset(root)
    assert (old.embodiment, old.rate_hz, old.prompts) == (new.embodiment, new.rate_hz, new.prompts)
    np.testing.assert_array_equal(old.actions, new.actions)
    for camera in ("front", "wrist"):
        expected = all_pictures(episodes, camera)
        for i in [*np.random.default_rng(2).permutation(16), 4, 5, 11, 12]:
            assert np.abs(old.image(i, camera).astype(int) - expected[i]).mean() < 4, (i, camera)


def test_a_missing_video_of_the_older_format_is_told_at_once(root: Path, tmp_path: Path, episodes) -> None:
    old = make_old(root, tmp_path / "old", episodes)
    (old / OLD_VIDEO.format(0, FRONT, 1)).unlink()
    with pytest.raises(ValueError, match=r"front/episode_000001.mp4 is missing; episode 1 needs it for camera"):
        LeRobotDataset(old)


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("group", [1, 4, 100])
def test_pictures_in_tables_are_the_very_ones_in_any_order(write: Write, episodes, group: int, beside: bool) -> None:
    dataset = LeRobotDataset(make_images(write(), episodes, group, beside))
    expected = all_pictures(episodes, "front")
    for i in [*np.random.default_rng(3).permutation(16), 3, 4, 3]:
        np.testing.assert_array_equal(dataset.image(i, "front"), expected[i])
    assert np.abs(dataset.image(7, "wrist").astype(int) - all_pictures(episodes, "wrist")[7]).mean() < 4
    assert dataset.embodiment.cameras == ("front", "wrist")
    dataset.preload()
    np.testing.assert_array_equal(dataset.preloaded("front"), np.stack(expected))


def test_a_table_with_pictures_for_each_episode_is_read(root: Path, tmp_path: Path, episodes, write: Write) -> None:
    new = make_images(write(), episodes)
    old = make_old(root, tmp_path / "old", episodes)
    change_info(old, lambda info: info["features"][FRONT].update(dtype="image"))
    table = pq.read_table(new / DATA)
    for e in LeRobotDataset(root).episodes:
        pq.write_table(table.slice(e.start, e.length), old / OLD_DATA.format(0, e.index), row_group_size=2)
    dataset, expected = LeRobotDataset(old), all_pictures(episodes, "front")
    for i in (0, 15, 5, 4, 11, 12):
        np.testing.assert_array_equal(dataset.image(i, "front"), expected[i])


def test_a_picture_costs_its_row_group_and_no_other_picture_is_decoded(
    write: Write, episodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, decoded = LeRobotDataset(make_images(write(), episodes)), []
    from pizero.data import lerobot_images

    real = lerobot_images.decode_picture
    monkeypatch.setattr(lerobot_images, "decode_picture", lambda data: decoded.append(len(data)) or real(data))
    dataset.frame(9)
    dataset.chunk(9, 50)
    assert len(decoded) == 1


def test_a_damaged_picture_in_a_table_is_told_with_file_and_row(write: Write, episodes) -> None:
    root = make_images(write(), episodes)
    table = pq.read_table(root / DATA)
    cells = table[FRONT].to_pylist()
    cells[6]["bytes"] = cells[6]["bytes"][:60]
    cells[7] = None
    cells[8] = {"bytes": None, "path": "images/nowhere.png"}
    i = table.column_names.index(FRONT)
    pq.write_table(table.set_column(i, FRONT, pa.array(cells, table[FRONT].type)), root / DATA)
    dataset = LeRobotDataset(root)
    for row, reason in ((6, ""), (7, "it has no bytes"), (8, "No such file")):
        with pytest.raises(
            CorruptPicture, match=rf"{DATA}: picture '{FRONT}' in row {row} cannot be decoded: .*{reason}"
        ):
            dataset.image(row, "front")
    np.testing.assert_array_equal(dataset.image(9, "front"), all_pictures(episodes, "front")[9])


def test_a_table_damaged_where_its_pictures_are_is_told_with_its_name(write: Write, episodes) -> None:
    root = make_images(write(), episodes, group=100)
    data = bytearray((root / DATA).read_bytes())
    with pq.ParquetFile(root / DATA) as file:
        columns = file.metadata.row_group(0)
        chunk = next(c for c in map(columns.column, range(columns.num_columns)) if c.path_in_schema == f"{FRONT}.bytes")
        start = chunk.dictionary_page_offset or chunk.data_page_offset
    data[start : start + chunk.total_compressed_size] = b"\x00" * chunk.total_compressed_size
    (root / DATA).write_bytes(data)
    with pytest.raises(CorruptPicture, match=rf"{DATA}: picture '{FRONT}' in row 0 cannot be decoded") as error:
        LeRobotDataset(root).image(0, "front")
    assert "\n" not in str(error.value)


def test_pictures_without_three_colours_are_refused(write: Write) -> None:
    root = write()
    change_info(root, lambda info: info["features"][FRONT].update(shape=[32, 48, 1]))
    with pytest.raises(
        ValueError, match=r"info.json: pictures of '.*front' have shape \[32, 48, 1\]; only .* 3 colours"
    ):
        LeRobotDataset(root)


def test_the_middle_of_a_video_damaged_stops_with_its_name_there_and_nowhere_else(write: Write, episodes) -> None:
    root = write()
    path = root / f"videos/{FRONT}/chunk-000/file-000.mp4"
    damage_packet(path, 8)
    dataset, expected = LeRobotDataset(root), all_pictures(episodes, "front")
    with pytest.raises(CorruptPicture, match=rf"{FRONT}/chunk-000/file-000.mp4 cannot be decoded at 0.640 s"):
        dataset.image(8, "front")
    for i in (7, 10, 0, 15):
        assert np.abs(dataset.image(i, "front").astype(int) - expected[i]).mean() < 4
    with pytest.raises(CorruptPicture):
        dataset.preload()


def damage_packet(path: Path, number: int) -> None:
    import av

    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        assert packets[number].is_keyframe
        start, size = packets[number].pos, packets[number].size
    data = bytearray(path.read_bytes())
    for i in range(start + 12, start + size):
        data[i] = (data[i] * 7 + 13) % 256
    path.write_bytes(data)


# frame rates


def test_an_episode_of_another_rate_is_refused(write: Write) -> None:
    root = write()
    table = pq.read_table(root / DATA)
    times = table["timestamp"].to_numpy().copy()
    times[5:12] /= 2
    i = table.column_names.index("timestamp")
    pq.write_table(table.set_column(i, "timestamp", pa.array(times)), root / DATA)
    with pytest.raises(ValueError, match=r"episode 1 has 25 frames a second by its timestamps, info.json says 12.5"):
        LeRobotDataset(root)
    times[5:12] = 0
    pq.write_table(table.set_column(i, "timestamp", pa.array(times)), root / DATA)
    with pytest.raises(ValueError, match="episode 1 has inf frames a second"):
        LeRobotDataset(root)


def test_a_video_of_another_rate_is_refused(write: Write, episodes, tmp_path: Path) -> None:
    root = write()
    change_info(root, lambda info: info["features"][FRONT]["info"].update({"video.fps": 30}))
    with pytest.raises(ValueError, match=r"info.json: video '.*front' has 30 frames a second, the data set 12.5"):
        LeRobotDataset(root)
    old = make_old(write(tmp_path / "again"), tmp_path / "old", episodes)
    path = old / OLD_VIDEO.format(0, FRONT, 1)
    writer = VideoWriter(path, (32, 48), 25.0)
    for frame in episodes[1][0]:
        writer.add(frame.images["front"])
    writer.close()
    dataset = LeRobotDataset(old)
    dataset.image(0, "front")
    with pytest.raises(ValueError, match=r"episode_000001.mp4 has 25 frames a second, the data set 12.5") as error:
        dataset.image(5, "front")
    assert not isinstance(error.value, CorruptPicture)  # nothing to skip: the data set is wrong


def test_a_robot_of_another_rate_than_its_data_is_refused(write: Write) -> None:
    root = write()
    text = (root / layout.EMBODIMENT).read_text()
    (root / layout.EMBODIMENT).write_text(text.replace("12.5", "10.0"))
    with pytest.raises(ValueError, match=r"embodiment.json says 10.0 actions a second, meta/info.json 12.5"):
        LeRobotDataset(root)


@pytest.mark.parametrize("rate", [0, -5, None, "30"])
def test_a_rate_that_is_none_is_refused(write: Write, rate) -> None:
    root = write()
    change_info(root, lambda info: info.update(fps=rate))
    with pytest.raises(ValueError, match=r"info.json: fps is .*, must be a number above 0"):
        LeRobotDataset(root)


# other processes


def decoded_in_another_process(dataset: LeRobotDataset, queue) -> None:
    pictures = [dataset.image(i, camera).tobytes() for camera in ("front", "wrist") for i in (9, 2, 3, 15)]
    queue.put((os.getpid(), pictures))


@pytest.mark.parametrize("start", ["fork", "spawn"])
@pytest.mark.parametrize("stored", ["video", "image"])
def test_another_process_decodes_the_same_pictures(write: Write, episodes, start: str, stored: str) -> None:
    root = write()
    dataset = LeRobotDataset(make_images(root, episodes) if stored == "image" else root)
    here = [dataset.image(i, camera).tobytes() for camera in ("front", "wrist") for i in (9, 2, 3, 15)]
    context = multiprocessing.get_context(start)
    queue = context.Queue()
    process = context.Process(target=decoded_in_another_process, args=(dataset, queue), daemon=True)
    with dataset._videos.use(next(iter(dataset._clips["wrist"])).path):  # as if a thread were decoding at the fork
        process.start()
        process_id, there = queue.get(timeout=60)
    process.join(60)
    assert process_id != os.getpid()
    assert there == here
    again = pickle.loads(pickle.dumps(dataset))
    assert again.image(2, "front").tobytes() == here[1]
    assert dataset.image(3, "front").tobytes() == here[2]
