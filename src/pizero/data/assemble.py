"""Rows of a mixture read and brought to model units: what a loader does, wherever it does it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8

from pizero.data.batch import Batch
from pizero.data.dataset import CorruptPicture
from pizero.data.images import blank, resize
from pizero.data.mix import Mixture

MOST_REPLACEMENTS = 100
"""Frames that are tried in place of one with a corrupt picture: more in a row are no accident."""

Corrupt = Literal["stop", "skip"]
"""What a picture that cannot be decoded does: raise, or have its frame replaced."""


@dataclass(frozen=True)
class Rows:
    """Rows of a batch but for their pictures. Plain arrays, which travel between processes."""

    image_mask: Bool[np.ndarray, "b v"]
    """True where the robot has the camera."""
    prompt: Int[np.ndarray, "b l"]
    """Token ids, as long as the run's longest prompt."""
    prompt_mask: Bool[np.ndarray, "b l"]
    """True where the token is real."""
    state: Float[np.ndarray, "b s"]
    """In model units."""
    values: Float[np.ndarray, "b t a"]
    """Chunks in model units."""
    action_mask: Bool[np.ndarray, "b t a"]
    """True for real dimensions of real timesteps."""
    skipped: int
    """Frames that were replaced."""


class Assembler:
    """Reads rows of a mixture. It can be pickled, for worker processes."""

    def __init__(self, mixture: Mixture, corrupt: Corrupt = "stop") -> None:
        self.mixture, self.corrupt = mixture, corrupt
        self.config = mixture.sources[0].transform.config

    def blank(self, count: int) -> UInt8[np.ndarray, "b v h w 3"] | Float[np.ndarray, "b v h w 3"]:
        """Black pictures for `count` rows, for `read` to fill."""
        side = self.config.image_size
        return blank((count, self.mixture.num_views, side, side, 3), self.config.resize)

    def read(
        self,
        positions: Int[np.ndarray, " b"],
        source: Int[np.ndarray, " b"],
        frame: Int[np.ndarray, " b"],
        images: UInt8[np.ndarray, "b v h w 3"] | Float[np.ndarray, "b v h w 3"],
    ) -> Rows:
        """Rows of the samples at some places of the mixture's order; their pictures are written to `images`.

        With corrupt "skip" a frame with a picture that cannot be decoded is replaced by another of its source, which
        the place decides. Raises CorruptPicture otherwise, or after too many, and ValueError for bad numbers.
        """
        read = frame.copy()
        for row, position in enumerate(positions):
            read[row] = self._read_pictures(int(position), int(source[row]), int(frame[row]), images[row])
        length, config = self.mixture.prompt_length, self.config
        rows = Rows(
            image_mask=np.zeros(images.shape[:2], bool),
            prompt=np.zeros((len(read), length), np.int64),
            prompt_mask=np.zeros((len(read), length), bool),
            state=np.zeros((len(read), config.state_dim), np.float32),
            values=np.zeros((len(read), config.horizon, config.action_dim), np.float32),
            action_mask=np.zeros((len(read), config.horizon, config.action_dim), bool),
            skipped=int((read != frame).sum()),
        )
        for number in np.unique(source):
            self._read_numbers(int(number), np.flatnonzero(source == number), read, rows)
        return rows

    def total(self, source: Int[np.ndarray, " b"], frame: Int[np.ndarray, " b"]) -> int:
        """Real elements of the actions of some samples together."""
        total = 0
        for number in np.unique(source):
            dataset = self.mixture.sources[number].dataset
            _, real = dataset.steps(frame[source == number], self.config.horizon)
            total += int(real.sum()) * len(dataset.embodiment.actions)
        return total

    def batch(
        self,
        step: int,
        places: Int[np.ndarray, " b"],
        source: Int[np.ndarray, " b"],
        total: int,
        images: UInt8[np.ndarray, "b v h w 3"] | Float[np.ndarray, "b v h w 3"],
        parts: Sequence[Rows],
    ) -> Batch:
        """The batch made of consecutive `parts`. `images` is not copied."""

        def join(arrays: Sequence[np.ndarray]) -> torch.Tensor:
            return torch.from_numpy(np.concatenate(arrays))

        return Batch(
            images=torch.from_numpy(images),
            image_mask=join([part.image_mask for part in parts]) if self.mixture.views_differ else None,
            prompt=join([part.prompt for part in parts]),
            prompt_mask=join([part.prompt_mask for part in parts]) if self.mixture.prompts_differ else None,
            state=join([part.state for part in parts]),
            values=join([part.values for part in parts]),
            action_mask=join([part.action_mask for part in parts]),
            total=total,
            skipped=sum(part.skipped for part in parts),
            step=step,
            row=places,
            source=source,
        )

    def _read_pictures(self, position: int, source: int, frame: int, images: np.ndarray) -> int:
        """Fills the row's pictures and gives the frame that they are of."""
        for attempt in range(MOST_REPLACEMENTS + 1):
            wanted = frame if attempt == 0 else self.mixture.replacement(source, position, attempt)
            try:
                self._read_frame(source, wanted, images)
            except CorruptPicture as error:
                if self.corrupt == "stop":
                    raise
                last = error
            else:
                return wanted
        raise CorruptPicture(f"{last}; so were {MOST_REPLACEMENTS} others that were tried in its place")

    def _read_frame(self, source: int, frame: int, images: np.ndarray) -> None:
        dataset, side = self.mixture.sources[source].dataset, self.config.image_size
        cameras = dataset.embodiment.cameras
        for view, camera in enumerate(cameras):
            images[view] = resize(dataset.image(frame, camera), (side, side), self.config.resize)
        images[len(cameras) :] = 0

    def _read_numbers(self, number: int, chosen: np.ndarray, frame: np.ndarray, rows: Rows) -> None:
        source, frame = self.mixture.sources[number], frame[chosen]
        dataset, transform = source.dataset, source.transform
        state = dataset.state[frame]
        rows.image_mask[chosen, : len(dataset.embodiment.cameras)] = True
        model_state, prompt, prompt_mask = transform.numbers(state, [dataset.prompt(i) for i in frame])
        length = self.mixture.prompt_length
        if prompt_mask[:, length:].any():
            row = int(prompt_mask[:, length:].any(1).nonzero()[0])
            raise ValueError(
                f"prompt {dataset.prompt(frame[row])!r} with its state has {int(prompt_mask[row].sum())} tokens, more "
                f"than the {length} that the longest was taken to have: this tokenizer writes numbers in an unusual way"
            )
        rows.state[chosen], rows.prompt[chosen] = model_state, prompt[:, :length]
        rows.prompt_mask[chosen] = prompt_mask[:, :length]
        values, real = dataset.chunks(frame, self.config.horizon)
        actions = transform.actions(values, real, state)
        rows.values[chosen], rows.action_mask[chosen] = actions.values, actions.mask
