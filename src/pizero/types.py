"""What the model takes: tensors in model units.

Axes: b batch, v view, c channel, h height, w width, l prompt token, s state dimension, t timestep of a chunk,
a action dimension, q query token, k key token, d width.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Observation:
    """A batch of frames in model units. A mask of None says that everything is real (nothing is padding)."""

    images: Float[Tensor, "b v 3 h w"]
    """Pictures in [-1, 1], one per view."""
    prompt: Int[Tensor, "b l"]
    """Token ids, padded on the right."""
    state: Float[Tensor, "b s"]
    """Normalised proprioception, padded with zeros to the model's state width."""
    image_mask: Bool[Tensor, "b v"] | None = None
    """True where the camera is present."""
    prompt_mask: Bool[Tensor, "b l"] | None = None
    """True where the token is real."""

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> "Observation":
        """The same batch on a device; pictures in `dtype` (None keeps theirs), the state as it is."""

        def move(mask: Tensor | None) -> Tensor | None:
            return None if mask is None else mask.to(device)

        return Observation(
            images=self.images.to(device, dtype),
            prompt=self.prompt.to(device),
            state=self.state.to(device),
            image_mask=move(self.image_mask),
            prompt_mask=move(self.prompt_mask),
        )

    def take(self, other: "Observation") -> None:
        """Take the numbers of another batch of the same shapes, in the own memory: that which a CUDA graph reads."""
        for own, new in zip(self._tensors, other._tensors, strict=True):
            assert (own is None) == (new is None), "a mask came or went"
            if own is not None and new is not None:
                own.copy_(new, non_blocking=True)

    def clone(self) -> "Observation":
        """The same numbers in memory of its own."""
        masks = (None if mask is None else mask.clone() for mask in (self.image_mask, self.prompt_mask))
        return Observation(self.images.clone(), self.prompt.clone(), self.state.clone(), *masks)

    @property
    def _tensors(self) -> tuple[Tensor | None, ...]:
        return self.images, self.prompt, self.state, self.image_mask, self.prompt_mask

    def trim(self) -> "Observation":
        """Without the views and prompt columns that are padding in every row; masks that say nothing become None.

        Exact: padding carries no weight in the model. Meant for the host, before the batch moves to the device.
        """
        images, image_mask = self.images, self.image_mask
        if image_mask is not None:
            views = image_mask.any(0)
            images, image_mask = images[:, views], image_mask[:, views]
            image_mask = None if bool(image_mask.all()) else image_mask
        prompt, prompt_mask = self.prompt, self.prompt_mask
        if prompt_mask is not None:
            tokens = prompt_mask.any(0)
            prompt, prompt_mask = prompt[:, tokens], prompt_mask[:, tokens]
            prompt_mask = None if bool(prompt_mask.all()) else prompt_mask
        return Observation(images, prompt, self.state, image_mask, prompt_mask)


@dataclass(frozen=True)
class Actions:
    """A batch of action chunks in model units."""

    values: Float[Tensor, "b t a"]
    """Normalised actions; padded dimensions are zero, steps after the end of the episode repeat the last action."""
    mask: Bool[Tensor, "b t a"]
    """True for the real dimensions of real timesteps: only these count in the loss."""

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> "Actions":
        """The same batch on a device; values in `dtype` (None keeps theirs)."""
        return Actions(self.values.to(device, dtype), self.mask.to(device))
