"""A batch as the loader gives it: bytes on the host, which become the model's input on its device."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from pizero.data.augment import Augmentation, changed_or_plain
from pizero.types import Actions, Observation


@dataclass(frozen=True)
class Batch:
    """Rows of a step's batch, on the host. Shapes, and which masks are None, are the same at every step of a run."""

    images: UInt8[Tensor, "b v h w 3"] | Float[Tensor, "b v h w 3"]
    """Pictures of the model's size: uint8, or float32 in [0, 1] where the resizing is "lerobot"."""
    image_mask: Bool[Tensor, "b v"] | None
    """True where the camera is present; None: every robot of the run has all."""
    prompt: Int[Tensor, "b l"]
    """Token ids, padded on the right to the longest prompt of the run."""
    prompt_mask: Bool[Tensor, "b l"] | None
    """True where the token is real; None: all prompts of the run are equally long."""
    state: Float[Tensor, "b s"]
    """In model units."""
    values: Float[Tensor, "b t a"]
    """Action chunks in model units."""
    action_mask: Bool[Tensor, "b t a"]
    """True for the real dimensions of real timesteps."""
    total: int
    """Real elements of the actions in the whole batch of the step, on all processes. Where a corrupt picture was
    replaced, those of the frame that was meant: processes need not ask each other."""
    skipped: int
    """Frames of these rows that were replaced because a picture is corrupt."""
    step: int
    """Number of the step, from 0."""
    row: Int[np.ndarray, " b"] | None = None
    """Place of each row in the whole batch of the step; None: 0, 1, 2 and so on."""
    source: Int[np.ndarray, " b"] | None = None
    """Source of the mixture that each row is from; None: the first."""

    def __len__(self) -> int:
        return len(self.state)

    def rows(self, part: slice) -> "Batch":
        """Some of the rows. `skipped` stays that of all: it is counted once, for the whole."""

        def cut(mask: Tensor | None) -> Tensor | None:
            return None if mask is None else mask[part]

        places = np.arange(len(self)) if self.row is None else self.row
        return replace(
            self,
            images=self.images[part],
            image_mask=cut(self.image_mask),
            prompt=self.prompt[part],
            prompt_mask=cut(self.prompt_mask),
            # On the CPU the last bits of a product can depend on where its numbers lie: memory of their own is aligned.
            state=self.state[part].clone(),
            values=self.values[part].clone(),
            action_mask=self.action_mask[part],
            row=places[part],
            source=None if self.source is None else self.source[part],
        )

    def observation(
        self, device: torch.device | str, augment: Augmentation | None = None, dtype: torch.dtype | None = None
    ) -> Observation:
        """The model's input on a device; pictures as `dtype` (None: float32), changed at random by `augment`.

        The pictures travel as they are, and are changed and scaled on the device.
        """
        changes = None
        if augment is not None:
            places = np.arange(len(self)) if self.row is None else self.row
            source = np.zeros(len(self), np.int64) if self.source is None else self.source
            changes = augment.draw(self.step, places, source)
        images = changed_or_plain(self.images.to(device, non_blocking=True), changes)
        return Observation(
            images=images if dtype is None else images.to(dtype),
            prompt=self.prompt.to(device, non_blocking=True),
            state=self.state.to(device, non_blocking=True),
            image_mask=None if self.image_mask is None else self.image_mask.to(device, non_blocking=True),
            prompt_mask=None if self.prompt_mask is None else self.prompt_mask.to(device, non_blocking=True),
        )

    def actions(self, device: torch.device | str) -> Actions:
        """The chunks to learn, on a device."""
        return Actions(self.values.to(device, non_blocking=True), self.action_mask.to(device, non_blocking=True))

    def pin(self) -> "Batch":
        """The same in memory that a GPU reads by itself, beside other work. Needs CUDA."""
        return replace(
            self,
            images=self.images.pin_memory(),
            image_mask=None if self.image_mask is None else self.image_mask.pin_memory(),
            prompt=self.prompt.pin_memory(),
            prompt_mask=None if self.prompt_mask is None else self.prompt_mask.pin_memory(),
            state=self.state.pin_memory(),
            values=self.values.pin_memory(),
            action_mask=self.action_mask.pin_memory(),
        )
