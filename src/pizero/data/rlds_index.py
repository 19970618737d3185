"""One pass over the TFRecord files of an RLDS data set: all numbers, and where every picture is."""

import mmap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int

from pizero.data.rlds_features import STEPS, Shard
from pizero.data.rlds_reading import Reading
from pizero.data.tf_example import Span, byte_spans, features, floats, integers, kind
from pizero.data.tfrecord import records


@dataclass(frozen=True)
class RldsIndex:
    """What `RldsDataset` keeps in memory; n frames, e episodes, c cameras in the order of the reading."""

    prompts: tuple[str, ...]
    """Every instruction once, in the order in which they come."""
    prompt_index: Int[np.ndarray, " n"]
    """Of each frame."""
    state: Float[np.ndarray, "n s"]
    """float32."""
    actions: Float[np.ndarray, "n a"]
    """float32."""
    lengths: Int[np.ndarray, " e"]
    """Frames of each episode."""
    shard: Int[np.ndarray, " e"]
    """Number of the file that an episode is in."""
    record: Int[np.ndarray, " e"]
    """Number of the episode in its file, from 0."""
    offset: Int[np.ndarray, "n c"]
    """First byte of each picture in its file."""
    size: Int[np.ndarray, "n c"]
    """Bytes of each picture."""
    num_unlabelled: int
    """Episodes left out because no step of them has an instruction (open-pi-zero's `skip_unlabeled`)."""


@dataclass
class _Episodes:
    """Lists that grow by one entry an episode."""

    prompts: dict[bytes, int] = field(default_factory=dict)
    prompt_index: list[np.ndarray] = field(default_factory=list)
    state: list[np.ndarray] = field(default_factory=list)
    actions: list[np.ndarray] = field(default_factory=list)
    place: list[tuple[int, int]] = field(default_factory=list)
    spans: list[np.ndarray] = field(default_factory=list)
    num_unlabelled: int = 0


def make_index(shards: Sequence[Shard], reading: Reading) -> RldsIndex:
    """Reads every file once; pictures are passed over. Raises ValueError that names file and record."""
    found = _Episodes()
    for number, shard in enumerate(shards):
        if not shard.path.stat().st_size:
            if shard.num_records:
                raise ValueError(f"{shard.path} is empty, dataset_info.json says {shard.num_records} episodes")
            continue
        with shard.path.open("rb") as file:
            # no `with`: it is unmapped with the last view on it, which a traceback may hold
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        count = 0
        for start, end in records(shard.path, data):
            try:
                _add(found, data, (start, end), reading, (number, count))
            except ValueError as error:
                raise ValueError(f"{shard.path}: record {count}: {error}") from None
            count += 1
        if count != shard.num_records:
            raise ValueError(f"{shard.path} has {count} episodes, dataset_info.json says {shard.num_records}")
    return _joined(found, shards)


def _joined(found: _Episodes, shards: Sequence[Shard]) -> RldsIndex:
    if not found.state:
        raise ValueError(f"{shards[0].path.parent}: no episode has frames and an instruction")
    spans = np.concatenate(found.spans)  # (n, c, 2)
    place = np.array(found.place)
    return RldsIndex(
        prompts=tuple(text.decode() for text in found.prompts),
        prompt_index=np.concatenate(found.prompt_index),
        state=np.concatenate(found.state),
        actions=np.concatenate(found.actions),
        lengths=np.array([len(state) for state in found.state]),
        shard=place[:, 0],
        record=place[:, 1],
        offset=np.ascontiguousarray(spans[..., 0]),
        size=spans[..., 1] - spans[..., 0],
        num_unlabelled=found.num_unlabelled,
    )


def _add(found: _Episodes, data: memoryview, span: Span, reading: Reading, place: tuple[int, int]) -> None:
    by_name = features(data, span)
    texts = [bytes(data[a:b]) for a, b in byte_spans(data, _feature(by_name, reading.prompt))]
    if not texts:
        raise ValueError("the episode has no steps")
    steps = {name: _numbers(data, by_name, name, width, len(texts)) for name, width in reading.numbers.items()}
    pictures = [byte_spans(data, _feature(by_name, name)) for name in reading.cameras.values()]
    for name, spans in zip(reading.cameras.values(), pictures, strict=True):
        if len(spans) != len(texts):
            raise ValueError(f"{name!r} has {len(spans)} pictures for {len(texts)} steps")
    if not any(text.strip() for text in texts):
        found.num_unlabelled += 1
        return
    state, actions = reading.convert(steps)
    if not len(state):  # one step, and only movements between two count
        return
    texts = texts[: len(state)]
    for text in texts:
        text.decode()  # where it is no UTF-8, the error says so of this record
    found.prompt_index.append(np.array([found.prompts.setdefault(text, len(found.prompts)) for text in texts]))
    found.state.append(state)
    found.actions.append(actions)
    found.place.append(place)
    found.spans.append(np.array(pictures, np.int64).transpose(1, 0, 2)[: len(state)])


def _feature(by_name: Mapping[str, Span], name: str) -> Span:
    if STEPS + name not in by_name:
        raise ValueError(f"there is no {STEPS + name!r}, but {sorted(by_name)}")
    return by_name[STEPS + name]


def _numbers(data: memoryview, by_name: Mapping[str, Span], name: str, width: int, steps: int) -> np.ndarray:
    feature = _feature(by_name, name)
    values = integers(data, feature) if kind(data, feature) == "integers" else floats(data, feature)
    if len(values) != steps * width:
        raise ValueError(f"{name!r} has {len(values)} numbers, expected {width} for each of {steps} steps")
    rows = values.astype(np.float32).reshape(steps, width)
    bad = np.argwhere(~np.isfinite(rows))
    if len(bad):
        step, i = bad[0]
        raise ValueError(f"{name!r} is {rows[step, i]} in step {step}, dimension {i}; must be finite")
    return rows
