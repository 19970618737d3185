"""One encoded picture (JPEG, PNG) to pixels, alone, whatever lies beside it in its file."""

import io

import numpy as np
from jaxtyping import UInt8
from PIL import Image

try:
    import simplejpeg  # type: ignore[import-not-found,import-untyped,unused-ignore]
except ModuleNotFoundError:  # the extra `rlds`
    simplejpeg = None

JPEG_START = b"\xff\xd8\xff"


def decode_picture(data: bytes) -> UInt8[np.ndarray, "h w 3"]:
    """The RGB pixels; grey pictures and palettes become RGB, transparency is dropped.

    A JPEG is decoded with libjpeg's fast cosine transform where simplejpeg is installed, which gives TensorFlow's
    pixels exactly; Pillow's accurate one differs from it by up to 6 of 255. Raises ValueError that says what is wrong.
    """
    if not data:
        raise ValueError("it has no bytes")
    if simplejpeg is not None and data.startswith(JPEG_START):
        return np.asarray(simplejpeg.decode_jpeg(data, "RGB", fastdct=True))
    try:
        with Image.open(io.BytesIO(data)) as picture:
            return np.array(picture.convert("RGB"))
    except (OSError, SyntaxError, EOFError) as error:  # Pillow calls a broken PNG a syntax error
        raise ValueError(str(error).replace("\n", " ") or type(error).__name__) from None
