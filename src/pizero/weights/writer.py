"""Safetensors files larger than memory: tensors are made, written and forgotten one by one.

The format (github.com/huggingface/safetensors, README): the length of a header as 8 bytes, the header in JSON, then the
numbers, little-endian, without gaps. Written aside, then renamed.
"""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

NAMES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
"""Types by their names in the format."""
ALIGNMENT = 8
"""The numbers start at a multiple of this many bytes, which the header is padded to with spaces."""

Report = Callable[[float, float, str], None]
"""report(done, total, note), in bytes."""


def write_safetensors(
    file: Path,
    tensors: Mapping[str, tuple[torch.dtype, tuple[int, ...]]],
    make: Callable[[str], Tensor],
    report: Report | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write the tensors that `make` gives by name; `tensors` says the type and shape of each beforehand.

    `make` may give another floating-point type, which is converted. When it raises, the file is not there.
    """
    header: dict[str, object] = {} if metadata is None else {"__metadata__": dict(metadata)}
    end = 0
    for name, (dtype, shape) in tensors.items():
        start, end = end, end + torch.Size(shape).numel() * dtype.itemsize
        header[name] = {"dtype": NAMES[dtype], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    aside = file.with_name(file.name + ".part")
    try:
        with aside.open("wb") as out:
            out.write(len(text).to_bytes(8, "little"))
            out.write(text)
            first = out.tell()
            for name, (dtype, shape) in tensors.items():
                tensor = make(name)
                assert tuple(tensor.shape) == shape, f"{name} is {tuple(tensor.shape)}, announced as {shape}"
                plain = tensor.detach().to(device="cpu", dtype=dtype).contiguous()
                out.write(plain.flatten().view(torch.uint8).numpy().data)
                if report is not None:
                    report(out.tell() - first, end, name)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    os.replace(aside, file)
