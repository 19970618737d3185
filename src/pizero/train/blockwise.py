"""Numbers of 8 bits in blocks of 256 that share a scale (Dettmers et al. 2021), as 8-bit AdamW keeps its averages.

A value is `qmap[code] * scale`, where `qmap` holds 256 numbers in rising order up to 1, and `scale` is the largest
magnitude in the block. bitsandbytes and torchao use the same map.
"""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

BLOCK = 256
"""Values that share a scale, in bitsandbytes and in torchao."""
PIECE = 2**24
"""Values that are converted at a time, so that little memory is needed beside the result; a multiple of BLOCK."""


def to_values(
    codes: UInt8[Tensor, "*shape"], scale: Float[Tensor, " blocks"], qmap: Float[Tensor, " 256"]
) -> Float[Tensor, "*shape"]:
    """The float32 values, such that `to_codes` gives the same codes and scales again.

    A map with negative numbers begins at -0.993, not at -1, so that a block whose largest value is negative would come
    back with a smaller scale. The lowest code is read as -1 for that reason: it has the same code, and keeps the scale.
    """
    table = qmap.clone()
    if table[0] < 0:
        table[0] = -1.0
    flat = codes.flatten()
    values = torch.empty(flat.shape, dtype=torch.float32, device=codes.device)
    for start in range(0, len(flat), PIECE):
        piece = flat[start : start + PIECE]
        scales = scale[start // BLOCK :][: -(-len(piece) // BLOCK)].repeat_interleave(BLOCK)[: len(piece)]
        values[start : start + PIECE] = table[piece.int()] * scales
    return values.view(codes.shape)


def to_codes(
    values: Float[Tensor, "*shape"], qmap: Float[Tensor, " 256"], smallest: float = 0.0
) -> tuple[UInt8[Tensor, "*shape"], Float[Tensor, " blocks"]]:
    """The nearest code of each value, and the scale of each block, which is at least `smallest`."""
    flat = values.flatten()
    codes = torch.empty(flat.shape, dtype=torch.uint8, device=values.device)
    scale = torch.empty(-(-len(flat) // BLOCK), dtype=torch.float32, device=values.device)
    middles = (qmap[1:] + qmap[:-1]) / 2
    for start in range(0, len(flat), PIECE):
        piece = flat[start : start + PIECE]
        blocks = torch.nn.functional.pad(piece, (0, -len(piece) % BLOCK)).view(-1, BLOCK)
        largest = blocks.abs().amax(1).clip(min=smallest)
        ratio = torch.where(largest[:, None] > 0, blocks / largest[:, None], 0.0)
        codes[start : start + PIECE] = torch.bucketize(ratio, middles, out_int32=True).flatten()[: len(piece)]
        scale[start // BLOCK :][: len(largest)] = largest
    return codes.view(values.shape), scale
