from pathlib import Path

import pytest
from rlds_files import BRIDGE_STEP, bridge_episode, write_rlds

from pizero.data.dataset import CorruptPicture, Dataset, open_dataset
from pizero.data.lerobot import LeRobotDataset
from pizero.data.rlds import RldsDataset


@pytest.fixture
def rlds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return write_rlds(tmp_path / "bridge_dataset/1.0.0", "bridge_dataset", BRIDGE_STEP, [[bridge_episode(3, 1)]])


def test_a_folder_tells_its_format(root: Path, rlds: Path) -> None:
    assert isinstance(open_dataset(root), LeRobotDataset)
    assert isinstance(open_dataset(rlds), RldsDataset)
    assert isinstance(open_dataset(root), Dataset)
    assert isinstance(open_dataset(rlds), Dataset)
    assert issubclass(CorruptPicture, ValueError)


def test_a_folder_of_no_format_is_refused_with_what_it_holds_and_what_is_near(root: Path, rlds: Path, tmp_path) -> None:
    empty, other = tmp_path / "empty", tmp_path / "other"
    empty.mkdir()
    other.mkdir()
    for name in "gfedcba":
        (other / name).write_text("")
    for path, message in (
        (tmp_path / "nowhere", "nowhere is no folder"),
        (rlds / "features.json", f"features.json is no folder; it is in {rlds}, give the folder"),
        (empty, "it holds nothing"),
        (
            other,
            r"a LeRobot folder has meta/info.json, an RLDS folder .* has dataset_info.json and .*; it holds a, b, c,",
        ),
        (rlds.parent, f"is no data set, {rlds} may be"),
        (rlds.parent.parent, f"is no data set, {rlds} may be"),
        (root.parent, f"is no data set, {root} may be"),
        (root / "meta", f"is no data set, {root} may be"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            open_dataset(path)
        assert "\n" not in str(error.value)
