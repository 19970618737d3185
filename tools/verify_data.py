"""Every array of the golden cases `normalize`, `prompts` and `resize`, computed with the package where it does it.

What the package does not do on purpose (openpi's fallback resizers, its running histogram, its truncation of prompts,
values beyond the statistics' width) is computed here.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pizero.data.choice import PromptFormat
from pizero.data.images import inner_size, resize, resize_with_pad
from pizero.data.normalize import OPENPI_EPS, Normalizer
from pizero.data.prompt import BOS, PAD, pad_row, pieces
from pizero.data.stats import Stats
from pizero.data.units import Units

HISTOGRAM_BINS = 5000
HISTOGRAM_MARGIN = 1e-10
"""Both: openpi, src/openpi/shared/normalize.py."""
MODES = {"z": "z-score", "q": "quantile"}


def normalize_case(folder: Path) -> dict[str, np.ndarray]:
    """Every expected array of a `normalize` case, by its name in expected.npz."""
    inputs, stats = _arrays(folder / "inputs.npz"), _norm_stats(folder / "norm_stats.json")
    shapes = json.loads((folder / "case.json").read_text())["files"]["expected.npz"]
    state, actions = inputs["state"], inputs["actions"]
    found: dict[str, np.ndarray] = {}
    for prefix, mode in MODES.items():
        of_state, of_actions = (_normalizer(mode, stats[key]) for key in ("state", "actions"))
        short = inputs["state_short"]
        found |= {
            f"{prefix}_state": of_state.normalize(state),
            f"{prefix}_actions": of_actions.normalize(actions),
            f"{prefix}_state_short": _normalizer(mode, _cut(stats["state"], short.shape[-1])).normalize(short),
            f"{prefix}_state_f64": of_state.normalize(inputs["state_f64"]),
            f"{prefix}_un_actions": _invert_wide(of_actions, inputs["model_actions"]),
            f"{prefix}_un_state": of_state.invert(of_state.normalize(state)),
        }
        row = found[f"{prefix}_state"][0]
        width = shapes[f"{prefix}_padded_state"]["shape"][-1]
        found[f"{prefix}_padded_state"] = np.pad(row, (0, width - len(row)))
    units = Units(delta=tuple(np.flatnonzero(inputs["delta_mask"]).tolist()))
    found |= {"delta": units.actions(actions, state), "absolute": units.invert_actions(actions, state)}
    return found | _stream(inputs["stream"])


def prompts_case(folder: Path) -> list[str]:
    """What differs in a `prompts` case, one line each; empty when nothing does."""
    cases = json.loads((folder / "prompts.json").read_text())
    wrong = []
    for case in cases["openpi"]:
        calls = [[text, first == 0] for first, text in enumerate(_openpi_pieces(case))]
        if calls != case["encode_calls"]:
            wrong.append(f"openpi {case['prompt']!r}: {calls} instead of {case['encode_calls']}")
    for case in cases["openpi_padding_with_byte_tokenizer"]:
        found = _byte_tokens(_openpi_pieces(case), case["max_len"])
        if found != (case["tokens"], case["mask"]):
            wrong.append(f"byte tokens of {case['prompt']!r}: {found} instead of {case['tokens']}, {case['mask']}")
    for case in cases["open_pi_zero"]:
        text = "<image>" * case["image_tokens"] + "<bos>" + "".join(pieces(case["prompt"], "open-pi-zero"))
        if text != case["text"]:
            wrong.append(f"open-pi-zero {case['prompt']!r}: {text!r} instead of {case['text']!r}")
    return wrong


def resize_case(folder: Path) -> dict[str, np.ndarray]:
    """Every expected array of a `resize` case, by its name in expected.npz."""
    inputs = _arrays(folder / "inputs.npz")
    shapes = json.loads((folder / "case.json").read_text())["files"]["expected.npz"]
    found: dict[str, np.ndarray] = {}
    for name, shape in ((name, tuple(entry["shape"])) for name, entry in shapes.items()):
        kind = name.rstrip("0123456789")
        image = inputs.get("img" + name.removeprefix(kind))
        if name == "float_to_uint8":
            found[name] = (255 * inputs["float_image"]).astype(np.uint8)
        elif name == "batch_pad":
            batch = inputs["batch"]
            flat = [resize_with_pad(one, shape[-3:-1]) for one in batch.reshape(-1, *batch.shape[-3:])]
            found[name] = np.stack(flat).reshape(shape)
        elif image is None:
            raise ValueError(f"{folder}: {name} belongs to no picture of inputs.npz, which has {sorted(inputs)}")
        elif kind in ("pad", "lanczos"):
            found[name] = np.asarray(resize(image, shape[:2], "pad" if kind == "pad" else "squash"))
        else:
            size = tuple(shapes["pad" + name.removeprefix(kind)]["shape"][:2])
            resized = jax_fallback(image, size) if kind == "jax" else torch_fallback(image, size)
            found[name] = resized if len(shape) == 3 else resized[0]  # the reference dropped an axis: its first row
    return found


def jax_fallback(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """openpi's resizing inside its JAX model, uint8 (h, w, 3): like "pad", but rounded once, after both directions."""
    inner = inner_size(image.shape[:2], size)
    rows = np.tensordot(_triangle(image.shape[0], inner[0]), image.astype(np.float32), (1, 0))
    values = np.einsum("ij,hjc->hic", _triangle(image.shape[1], inner[1]), rows)
    return _centred(np.clip(np.rint(values), 0, 255).astype(np.uint8), size, 0)


def torch_fallback(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """openpi's resizing inside its PyTorch model, of uint8 (h, w, 3) as x / 127.5 - 1: not averaged; black is -1."""
    inner = inner_size(image.shape[:2], size)
    values = torch.from_numpy(image.astype(np.float32) / np.float32(255) * 2 - 1).permute(2, 0, 1)[None]
    resized = torch.nn.functional.interpolate(values, inner, mode="bilinear", align_corners=False).clamp(-1, 1)
    return _centred(resized[0].permute(1, 2, 0).numpy(), size, -1)


def running_quantiles(batches: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """1 % and 99 % quantiles (d,) of batches (b, n, d) as openpi's running histograms estimate them.

    When the range of any dimension grows, the histograms of all are made anew, without the first one's margin: an old
    bin's count moves to where its lower edge lies, and is lost where that is outside.
    """
    low, high = batches[0].min(0), batches[0].max(0)
    edges = np.linspace(low - HISTOGRAM_MARGIN, high + HISTOGRAM_MARGIN, HISTOGRAM_BINS + 1)
    counts = np.zeros((HISTOGRAM_BINS, batches.shape[-1]))
    for batch in batches:
        if (batch.min(0) < low).any() or (batch.max(0) > high).any():
            low, high = np.minimum(low, batch.min(0)), np.maximum(high, batch.max(0))
            old, edges = edges, np.linspace(low, high, HISTOGRAM_BINS + 1)
            counts = _histograms(old[:-1], edges, counts)
        counts = counts + _histograms(batch, edges, np.ones(batch.shape))
    total = batches.shape[0] * batches.shape[1]
    found = [
        [edges[np.searchsorted(np.cumsum(counts[:, dim]), share * total), dim] for dim in range(batches.shape[-1])]
        for share in (0.01, 0.99)
    ]
    return np.array(found[0]), np.array(found[1])


def _histograms(values: np.ndarray, edges: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Of every column (n, d), with its own edges (bins + 1, d)."""
    columns = zip(values.T, edges.T, weights.T, strict=True)
    return np.stack([np.histogram(column, e, weights=w)[0] for column, e, w in columns], -1)


def _stream(stream: np.ndarray) -> dict[str, np.ndarray]:
    exact, (q01, q99) = Stats.of(stream.reshape(-1, stream.shape[-1])), running_quantiles(stream)
    assert exact.q01 is not None
    assert exact.q99 is not None
    return {
        "stream_mean": exact.mean,
        "stream_std": exact.std,
        "stream_q01": q01,
        "stream_q99": q99,
        "stream_exact_01": exact.q01,
        "stream_exact_99": exact.q99,
    }


def _norm_stats(file: Path) -> dict[str, Stats]:
    return {key: _stats(value) for key, value in json.loads(file.read_text())["norm_stats"].items()}


def _stats(values: dict[str, list[float] | None]) -> Stats:
    arrays: dict[str, Any] = {
        name: None if values.get(name) is None else np.asarray(values[name], np.float64)
        for name in ("mean", "std", "q01", "q99")
    }
    return Stats(**arrays, min=None, max=None, count=None)


def _cut(stats: Stats, width: int) -> Stats:
    def first(array: np.ndarray | None) -> np.ndarray | None:
        return None if array is None else array[:width]

    return Stats(stats.mean[:width], stats.std[:width], None, None, first(stats.q01), first(stats.q99), None)


def _normalizer(mode: Any, stats: Stats) -> Normalizer:
    return Normalizer(mode, stats, [f"dimension {i}" for i in range(len(stats.mean))])


def _invert_wide(normalizer: Normalizer, values: np.ndarray) -> np.ndarray:
    """Of values wider than the statistics: openpi fills a mean of 0 and a deviation of 1, and passes quantiles by."""
    width = len(normalizer.names)
    beyond = values[..., width:].astype(np.float64) * (1 + OPENPI_EPS if normalizer.mode == "z-score" else 1)
    return np.concatenate([normalizer.invert(values[..., :width]), beyond], -1)


def _openpi_pieces(case: dict[str, Any]) -> tuple[str, ...]:
    if case["state"] is None:
        return pieces(case["prompt"], "pi0")
    prompt_format: PromptFormat = "pi05"
    exact = [float.fromhex(x) for x in case["state_hex"]] if "state_hex" in case else case["state"]
    return pieces(case["prompt"], prompt_format, np.array(exact, case["state_dtype"]))


def _byte_tokens(texts: tuple[str, ...], length: int) -> tuple[list[int], list[bool]]:
    """With the case's stand-in for a tokenizer: a token for each byte. openpi cuts what is too long, we refuse it."""
    ids = [BOS, *(byte + 3 for text in texts for byte in text.encode())]
    try:
        row, real = pad_row(ids, length, "".join(texts))
    except ValueError:
        assert len(ids) > length
        return ids[:length], [True] * length
    assert (row[real:] == PAD).all()
    return row.tolist(), [i < real for i in range(length)]


def _triangle(length: int, resized: int) -> np.ndarray:
    """(resized, length): each new pixel as a mean of the old, with a triangle as wide as the pixel (jax.image)."""
    scale = np.float32(resized) / np.float32(length)
    places = (np.arange(resized, dtype=np.float32) + np.float32(0.5)) / scale - np.float32(0.5)
    distance = np.abs(places[:, None] - np.arange(length, dtype=np.float32)) / max(1 / scale, np.float32(1))
    weights = np.maximum(0, 1 - distance).astype(np.float32)
    return weights / weights.sum(1, keepdims=True)


def _centred(image: np.ndarray, size: tuple[int, int], fill: float) -> np.ndarray:
    (height, width), (top, left) = image.shape[:2], ((size[i] - image.shape[i]) // 2 for i in range(2))
    padded = np.full((*size, 3), fill, image.dtype)
    padded[top : top + height, left : left + width] = image
    return padded


def _arrays(file: Path) -> dict[str, np.ndarray]:
    with np.load(file) as arrays:
        return dict(arrays)


def main() -> None:
    """Print how far every array of the given cases is from what is expected."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, help="case folders: normalize, prompts or resize")
    for folder in parser.parse_args().folders:
        case = json.loads((folder / "case.json").read_text())["case"]
        if case == "prompts":
            print(folder, *(prompts_case(folder) or ["all prompts agree"]), sep="\n  ")
            continue
        found = normalize_case(folder) if case == "normalize" else resize_case(folder)
        for name, expected in _arrays(folder / "expected.npz").items():
            distance = np.abs(found[name].astype(np.float64) - expected).max()
            print(f"{folder} {name}: {distance:.3g}, {found[name].dtype} {found[name].shape}")


if __name__ == "__main__":
    main()
