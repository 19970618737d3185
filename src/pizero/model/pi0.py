"""pi0: a vision-language model and a small action expert under one attention, trained by flow matching.

What is unusual:
- image and prompt tokens go through the `vlm` expert, state and action tokens through the `action` expert;
- the three blocks (image + prompt, state, actions) are three calls, each attending to the cache of those before it, so
  the keys and values of an observation are computed once and every Euler step runs the action expert alone;
- absent cameras and prompt padding keep their places in the tensors but take no position and no weight;
- pi0.5 and open-pi-zero's variants are the same network with other switches (`Pi0Config`).
"""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from pizero import flow
from pizero.model.config import Pi0Config
from pizero.model.gemma import Cache, Gemma
from pizero.model.heads import Heads
from pizero.model.norm import AdaLayerNorm, AdaRMSNorm, RMSNorm, norm_maker
from pizero.model.siglip import Siglip
from pizero.types import Actions, Observation


def precision(name: str, dtype: torch.dtype) -> torch.dtype:
    """In which type a parameter of this name is kept in a network of `dtype`: the small heads stay float32.

    What they give, the velocity, is added up over the Euler steps, and what they read, the fast sines of the flow time,
    is not what bfloat16 can hold (openpi's PyTorch side keeps them so too).
    """
    return torch.float32 if name.startswith("heads.") else dtype


class Pi0(nn.Module):
    """The policy network: velocity(x_t, t | observation), its loss and its sampler."""

    def __init__(self, config: Pi0Config) -> None:
        super().__init__()
        self.config = config
        self.vision = Siglip(config.vision)
        self.projector = nn.Linear(config.vision.width, config.vlm.width)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.vlm.width)
        self.vlm = Gemma(config.vlm, softcap=config.attention_softcap)
        adaptive = norm_maker(config.action.width, config.time_conditioning, config.time_width)
        self.action = Gemma(config.action, adaptive, config.attention_softcap)
        self.heads = Heads(config)

    @property
    def dtype(self) -> torch.dtype:
        """Of the tokens in both experts: that of autocast where it is on, else that of the weights."""
        device = self.embed_tokens.weight.device.type
        if torch.is_autocast_enabled(device):
            return torch.get_autocast_dtype(device)
        return self.embed_tokens.weight.dtype

    def cast(self, dtype: torch.dtype) -> "Pi0":
        """The network in `dtype`, in place, but for what `precision` keeps in float32."""
        for name, parameter in self.named_parameters():
            parameter.data = parameter.data.to(precision(name, dtype))
        return self

    def set_recompute(self, recompute: bool) -> None:
        """Whether the backward pass computes the inside of layers again in place of keeping it: less memory, slower."""
        for stack in (self.vision, self.vlm, self.action):
            stack.recompute = recompute

    def init_weights(self, generator: torch.Generator | None = None) -> "Pi0":
        """Fresh weights, in place: std 1 / sqrt(fan in), zero biases, norms that scale by 1, zero velocity.

        Positions of patches are `sincos_positions`.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5, generator=generator)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm | nn.GroupNorm):
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)
        for module in self.modules():  # the linear layers of adaptive norms have been drawn above
            if isinstance(module, RMSNorm | AdaRMSNorm | AdaLayerNorm):
                module.init_weights()
        nn.init.normal_(self.embed_tokens.weight, std=self.config.vlm.width**-0.5, generator=generator)
        self.vision.init_positions()
        nn.init.zeros_(self.heads.action_out_proj.weight)
        return self

    def embed_images(self, images: Float[Tensor, "b v 3 h w"]) -> Float[Tensor, "b k d"]:
        """Image tokens of all views, one view after the other. Not scaled, unlike text (PaliGemma)."""
        b, v = images.shape[:2]
        return self.projector(self.vision(images.flatten(0, 1))).unflatten(0, (b, v)).flatten(1, 2)

    def embed_prompt(self, prompt: Int[Tensor, "b l"]) -> Float[Tensor, "b l d"]:
        """Prompt tokens, times sqrt(width) (Gemma)."""
        return self.embed_tokens(prompt).to(self.dtype) * math.sqrt(self.config.vlm.width)

    def embed_prefix(
        self, observation: Observation
    ) -> tuple[Float[Tensor, "b k d"], Int[Tensor, "b k"], Bool[Tensor, "b k"] | None]:
        """Tokens of images and prompt, their positions (real tokens are counted), and their mask."""
        tokens = torch.cat([self.embed_images(observation.images), self.embed_prompt(observation.prompt)], dim=1)
        mask = self._prefix_mask(observation)
        if mask is None:
            positions = torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape[:2])
        else:
            positions = (mask.cumsum(1) - 1).clamp(min=0)
        return tokens, positions + self._first_position, mask

    def prefill(self, observation: Observation) -> Cache:
        """Keys and values of everything that does not change with the actions: images, prompt, state.

        Where norms depend on the time, the state's are those of t = 0 (open-pi-zero, `infer_action_naive`).
        """
        prefix = self.prefill_prefix(observation)
        return self.append_state(prefix, observation.state, torch.zeros_like(observation.state[:, 0]))

    def prefill_prefix(self, observation: Observation) -> Cache:
        """Keys and values of images and prompt."""
        tokens, positions, mask = self.embed_prefix(observation)
        return self.vlm.cache(tokens, positions, mask)

    def append_state(self, prefix: Cache, state: Float[Tensor, "b s"], t: Float[Tensor, " b"]) -> Cache:
        """The cache followed by the state, whose norms depend on t where they are adaptive; without a state: itself."""
        if not self.config.state_token:
            return prefix
        positions = self._next_positions(prefix, 1, offset=0)
        tokens, condition = self.heads.embed_state(state).to(self.dtype), self._condition(t)
        return self.action.cache(tokens, positions, past=prefix, condition=condition)

    def velocity(self, cache: Cache, x_t: Float[Tensor, "b t a"], t: Float[Tensor, " b"]) -> Float[Tensor, "b t a"]:
        """v_t of a noisy chunk, given the cache of `prefill`. Runs the action expert only."""
        tokens = self.heads.embed_actions(x_t, t).to(self.dtype)
        positions = self._next_positions(cache, tokens.shape[1], offset=int(self.config.state_token))
        x = self.action(tokens, positions, past=cache, condition=self._condition(t))
        return self.heads.velocity(x)

    def loss(
        self,
        observation: Observation,
        actions: Actions,
        t: Float[Tensor, " n"],
        noise: Float[Tensor, "n t a"],
        sigma_min: float = flow.SIGMA_MIN,
    ) -> Float[Tensor, ""]:
        """Flow matching loss. n is a multiple of the batch size b: n / b draws of (t, noise) per observation, in a row.

        Padded action dimensions are zero in x_t too, as they are when sampling with `action_mask`.
        """
        draws, rest = divmod(t.shape[0], observation.state.shape[0])
        if rest or not draws:
            raise ValueError(f"{t.shape[0]} draws of t for {observation.state.shape[0]} observations; give a multiple")
        values = actions.values.repeat_interleave(draws, 0)
        mask = actions.mask.repeat_interleave(draws, 0)
        noise = noise * mask.any(dim=1, keepdim=True)
        x_t = flow.interpolate(noise, values, t, sigma_min)
        v_t = self.velocity(self._prefill_draws(observation, t, draws), x_t, t)
        return flow.loss(v_t, flow.target_velocity(noise, values, sigma_min), mask)

    @torch.inference_mode()
    def sample(
        self,
        observation: Observation,
        num_steps: int = 10,
        noise: Float[Tensor, "b t a"] | None = None,
        generator: torch.Generator | None = None,
        action_mask: Bool[Tensor, " a"] | None = None,
    ) -> Float[Tensor, "b t a"]:
        """Action chunks in model units, float32.

        `noise` is drawn from the generator when None. `action_mask` marks the robot's own action dimensions; the others
        stay zero. None: all `action_dim` dimensions are sampled.
        """
        if noise is None:
            shape = (observation.state.shape[0], self.config.horizon, self.config.action_dim)
            noise = torch.randn(shape, generator=generator, device=observation.state.device)
        keep = torch.ones(self.config.action_dim, device=noise.device) if action_mask is None else action_mask.float()
        cache = self.prefill(observation)
        grid = self.config.euler_grid
        return flow.integrate(lambda x, t: self.velocity(cache, x, t) * keep, noise * keep, num_steps, grid, self.dtype)

    @property
    def _first_position(self) -> int:
        """open-pi-zero counts from 1, which matters where the experts' rotary bases differ."""
        return int(self.config.positions == "restart")

    def _prefill_draws(self, observation: Observation, t: Tensor, draws: int) -> Cache:
        """The cache of each observation `draws` times; images and prompt are run once."""
        if self.config.time_conditioning == "input":  # then the state's keys and values depend on no draw
            return self.prefill(observation).repeat(draws)
        prefix = self.prefill_prefix(observation).repeat(draws)
        return self.append_state(prefix, observation.state.repeat_interleave(draws, 0), t)

    def _condition(self, t: Tensor) -> Tensor | None:
        """What the norms of the action expert depend on."""
        condition = self.heads.condition(t)
        return None if condition is None else condition.to(self.dtype)

    def _next_positions(self, cache: Cache, length: int, offset: int) -> Int[Tensor, "b q"]:
        """Of `length` suffix tokens of which `offset` came before, according to `config.positions`."""
        if self.config.positions == "counted":
            return cache.next_positions(length)
        positions = self._first_position + offset + torch.arange(length, device=cache.keys[0].device)
        return positions.expand(cache.keys[0].shape[0], length)

    def _prefix_mask(self, observation: Observation) -> Tensor | None:
        image_mask, prompt_mask = observation.image_mask, observation.prompt_mask
        if image_mask is None and prompt_mask is None:
            return None
        if image_mask is None:
            image_mask = torch.ones(observation.images.shape[:2], dtype=torch.bool, device=observation.prompt.device)
        if prompt_mask is None:
            prompt_mask = torch.ones_like(observation.prompt, dtype=torch.bool)
        patches = image_mask.repeat_interleave(self.config.vision.num_patches, dim=1)
        return torch.cat([patches, prompt_mask], dim=1)
