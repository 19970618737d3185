"""Plants one bug at a time into a copy of the package and tells which tests see it: python tools/plant_bugs.py [WORD].

A numerics test counts only when it has been seen to fail. Prints a Markdown table; exits with 1 when a bug survives.
WORD: plant only the bugs whose name contains it. A bug is tried on the tests that could see it, two at a time.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
WORKERS = 2
ENOUGH = 10
"""Failing tests after which no more are run."""
NETWORK = ("tests/unit/model", "tests/unit/test_flow.py", "tests/property/test_block_rule.py")
"""What sees most bugs of the network."""
MODEL = ("tests/unit/model",)
FLOW_TESTS = ("tests/unit/test_flow.py", "tests/unit/model/test_pi0.py")
PALIGEMMA_TESTS = ("tests/parity/test_paligemma.py",)
JAX_TESTS = ("tests/parity/test_openpi_jax_golden.py", "tests/unit/weights/test_orbax.py")


def cases(*names: str) -> tuple[str, ...]:
    """The tests of golden cases."""
    return tuple(f"tests/parity/test_verify_case.py::test_every_array_of_a_case_agrees[{name}]" for name in names)


OPENPI, LORA = cases("openpi_pi0_base"), cases("openpi_jax_pi0_lora")
LEROBOT_PI0, LEROBOT_PI05 = cases("lerobot_pi0_base"), cases("lerobot_pi05_base")
OPEN_PI_ZERO, ADALN = cases("open_pi_zero_rope100"), cases("open_pi_zero_adaln_zero")
FLOW, GEMMA, HEADS, NORM, PI0 = "flow.py", "model/gemma.py", "model/heads.py", "model/norm.py", "model/pi0.py"
SIGLIP, TYPES = "model/siglip.py", "types.py"
NORMALIZE, PROMPT, TRANSFORM, UNITS = "data/normalize.py", "data/prompt.py", "data/transform.py", "data/units.py"
BRIDGE, FRACTAL, ROTATION = "robot/bridge.py", "robot/fractal.py", "robot/rotation.py"
LEROBOT, THEIR_PT, OPENPI_PT = "weights/lerobot.py", "weights/open_pi_zero.py", "weights/openpi.py"
ORBAX, ORBAX_LORA, ORBAX_RECIPES = "weights/orbax.py", "weights/orbax_lora.py", "weights/orbax_recipes.py"
STEP, LORA_LAYER = "train/step.py", "model/lora.py"
SHARED, LORA_TESTS = ("tests/unit/train/test_parallel.py",), ("tests/unit/model/test_lora.py",)
PALIGEMMA, TURN = "weights/paligemma.py", "weights/turn.py"
PLUGIN = """
from hypothesis import Phase, settings
settings.register_profile("one_failure_is_enough", phases=[Phase.explicit, Phase.generate], database=None)
settings.load_profile("one_failure_is_enough")
"""
"""Without it hypothesis spends minutes on making failing examples smaller."""


class Edit(NamedTuple):
    """One text in one file of the package, and what replaces it."""

    file: str
    right: str
    wrong: str


class Bug(NamedTuple):
    """A mistake that somebody could make."""

    name: str
    edits: list[Edit]
    tests: tuple[str, ...] = NETWORK
    """Files and tests of pytest that are run."""


class Sighting(NamedTuple):
    """What the tests say of a bug."""

    tests: list[str]
    crashes: list[str]


RUN_PREFIX = """        tokens, positions, mask = self.embed_prefix(observation)
        return self.vlm.cache(tokens, positions, mask)
"""
KEEP_PREFIX = RUN_PREFIX.replace("        return", "        self.leak = tokens, positions, mask\n        return")
RUN_STATE = """        return self.action.cache(tokens, positions, past=prefix, condition=condition)
"""
RUN_ACTIONS = """        x = self.action(tokens, positions, past=cache, condition=self._condition(t))
        return self.heads.velocity(x)
"""
PREFIX_AGAIN = """        draws = len(tokens) // len(self.leak[0])
        prefix_again = [None if x is None else x.repeat_interleave(draws, 0) for x in self.leak]
"""
BUGS = [
    Bug("Gemma: GELU by erf", [Edit(GEMMA, 'F.gelu(gate, approximate="tanh")', "F.gelu(gate)")]),
    Bug("SigLIP: GELU by erf", [Edit(SIGLIP, 'norm2(x)), approximate="tanh")', "norm2(x)))")], MODEL),
    Bug("stem of convolutions: GELU by erf", [Edit(SIGLIP, 'tion(x)), approximate="tanh")', "tion(x)))")], MODEL),
    Bug("stem of convolutions: norm over half of the channels", [Edit(SIGLIP, "GroupNorm(1", "GroupNorm(2")], MODEL),
    Bug("text not scaled by sqrt(width)", [Edit(PI0, " * math.sqrt(self.config.vlm.width)", "")]),
    Bug(
        "images scaled like text",
        [Edit(PI0, "self.vision(images.flatten(0, 1)))", "self.vision(images.flatten(0, 1))).mul(8)")],
    ),
    Bug("state one position late", [Edit(PI0, "prefix, 1, offset=0)", "prefix, 1, offset=0) + 1")]),
    Bug(
        "actions one position late",
        [
            Edit(
                PI0,
                "tokens.shape[1], offset=int(self.config.state_token))",
                "tokens.shape[1], offset=int(self.config.state_token)) + 1",
            )
        ],
    ),
    Bug(
        "padding counted in the positions of the prefix",
        [Edit(PI0, "(mask.cumsum(1) - 1).clamp(min=0)", "mask.long().fill_(1).cumsum(1) - 1")],
    ),
    Bug(
        "padding counted in the positions after it",
        [
            Edit(
                GEMMA,
                "self.mask.sum(1, keepdim=True) + following",
                "self.mask.long().fill_(1).sum(1, True) + following",
            )
        ],
    ),
    Bug("padding attended to", [Edit(GEMMA, "None if mask is None else mask[:, None, None, :]", "None")]),
    Bug(
        "masks of the patches shuffled between views",
        [
            Edit(
                PI0,
                "image_mask.repeat_interleave(self.config.vision.num_patches, dim=1)",
                "image_mask.repeat(1, self.config.vision.num_patches)",
            )
        ],
    ),
    Bug(
        "causal attention within a block",
        [Edit(GEMMA, "attn_mask=allowed)", "attn_mask=allowed, is_causal=allowed is None)")],
    ),
    Bug(
        "the state sees the actions",
        [
            Edit(PI0, RUN_STATE, "        self.leak = tokens\n        return prefix\n"),
            Edit(
                PI0,
                RUN_ACTIONS,
                "        if self.config.state_token:\n"
                "            state = self.leak.repeat_interleave(len(tokens) // len(self.leak), 0)\n"
                "            tokens = torch.cat([state, tokens], dim=1)\n"
                "            positions = self._next_positions(cache, tokens.shape[1], offset=0)\n"
                + RUN_ACTIONS.replace("velocity(x)", "velocity(x[:, int(self.config.state_token) :])"),
            ),
        ],
    ),
    Bug(
        "the prefix sees the state",
        [
            Edit(PI0, RUN_PREFIX, KEEP_PREFIX),
            Edit(
                PI0,
                RUN_STATE,
                PREFIX_AGAIN + "        own = self.action.cache(tokens, positions, past=prefix, condition=condition)\n"
                "        own = Cache([k[:, :, -1:] for k in own.keys], [v[:, :, -1:] for v in own.values], None)\n"
                "        return self.vlm.cache(*prefix_again, past=own)\n",
            ),
        ],
    ),
    Bug(
        "the prefix sees the actions",
        [
            Edit(PI0, RUN_PREFIX, KEEP_PREFIX),
            Edit(
                PI0,
                RUN_ACTIONS,
                PREFIX_AGAIN + "        own = self.action.cache(tokens, positions, condition=self._condition(t))\n"
                "        leaked = self.vlm.cache(*prefix_again, past=own)\n"
                "        n, p = tokens.shape[1], prefix_again[0].shape[1]\n"
                "        def join(new, old):\n"
                "            return [torch.cat([a[:, :, n:], b[:, :, p:]], 2) for a, b in zip(new, old, strict=True)]\n"
                "        cache = Cache(join(leaked.keys, cache.keys), join(leaked.values, cache.values), cache.mask)\n"
                + RUN_ACTIONS,
            ),
        ],
    ),
    Bug(
        "own keys and values put before the cached ones",
        [
            Edit(
                GEMMA,
                "torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)",
                "torch.cat([k, past[0]], dim=2), torch.cat([v, past[1]], dim=2)",
            )
        ],
    ),
    Bug(
        "a cache extended at its front",
        [
            Edit(GEMMA, "zip(self.keys, new.keys, strict=True)", "zip(new.keys, self.keys, strict=True)"),
            Edit(GEMMA, "zip(self.values, new.values, strict=True)", "zip(new.values, self.values, strict=True)"),
        ],
    ),
    Bug(
        "mask of a cache extended at its front",
        [
            Edit(
                GEMMA,
                "torch.cat([past, past.new_ones(rows, length) if own is None else own], dim=1)",
                "torch.cat([past.new_ones(rows, length) if own is None else own, past], dim=1)",
            )
        ],
    ),
    Bug(
        "layers of the cache in reverse",
        [
            Edit(
                GEMMA,
                "(past.keys[i], past.values[i])\n            x, _, _ = run_layer",
                "(past.keys[-1 - i], past.values[-1 - i])\n            x, _, _ = run_layer",
            ),
        ],
    ),
    Bug(
        "draws of one observation not side by side",
        [
            Edit(
                GEMMA,
                "[k.repeat_interleave(times, 0) for k in self.keys]",
                "[k.repeat(times, 1, 1, 1) for k in self.keys]",
            ),
            Edit(
                GEMMA,
                "[v.repeat_interleave(times, 0) for v in self.values]",
                "[v.repeat(times, 1, 1, 1) for v in self.values]",
            ),
            Edit(GEMMA, "self.mask.repeat_interleave(times, 0)", "self.mask.repeat(times, 1)"),
        ],
    ),
    Bug(
        "RMSNorm scales by w instead of 1 + w", [Edit(NORM, "(1 + self.weight.float())", "self.weight.float()")], MODEL
    ),
    Bug(
        "rotary embedding: sine and cosine swapped",
        [Edit(GEMMA, "angle.cos(), angle.sin()", "angle.sin(), angle.cos()")],
    ),
    Bug(
        "time embedding: sine and cosine swapped",
        [Edit(HEADS, "[angle.sin(), angle.cos()]", "[angle.cos(), angle.sin()]")],
        MODEL,
    ),
    Bug(
        "time before actions in the MLP",
        [Edit(HEADS, "torch.cat([actions, time], dim=-1)", "torch.cat([time, actions], dim=-1)")],
        MODEL,
    ),
    Bug(
        "time one Euler step late",
        [Edit(FLOW, "return [step / num_steps", "return [(step + 1) / num_steps")],
        FLOW_TESTS,
    ),
    Bug(
        "path from data to noise",
        [Edit(FLOW, "    t = t[:, None, None]\n", "    t = 1 - t[:, None, None]\n")],
        FLOW_TESTS,
    ),
    Bug(
        "target velocity with the wrong sign",
        [Edit(FLOW, "actions - (1 - sigma_min) * noise", "(1 - sigma_min) * noise - actions")],
        FLOW_TESTS,
    ),
    Bug(
        "loss mask ignored",
        [Edit(FLOW, "torch.where(mask, squared, 0).sum() / mask.sum().clamp(min=1)", "squared.mean()")],
        FLOW_TESTS,
    ),
    Bug(
        "time distribution reversed",
        [Edit(FLOW, "MAX_TIME * (1 - u ** (1 / 1.5))", "MAX_TIME * u ** (1 / 1.5)")],
        FLOW_TESTS,
    ),
    Bug(
        "noise in padded action dimensions",
        [Edit(PI0, "noise = noise * mask.any(dim=1, keepdim=True)", "noise = noise * 1")],
    ),
    Bug(
        "padded action dimensions sampled",
        [Edit(PI0, "self.velocity(cache, x, t) * keep", "self.velocity(cache, x, t)")],
    ),
    Bug(
        "sigma_min forgotten on the path",
        [Edit(FLOW, "(1 - (1 - sigma_min) * t) * noise", "(1 - t) * noise")],
        FLOW_TESTS,
    ),
    Bug(
        "Euler in the dtype of the velocity",
        [
            Edit(FLOW, "x = noise.float()", "x = noise"),
            Edit(FLOW, "velocity(x, t).float() / num_steps", "velocity(x, t) / num_steps"),
        ],
        FLOW_TESTS,
    ),
    Bug(
        "trim looks at the first row alone",
        [Edit(TYPES, "tokens = prompt_mask.any(0)", "tokens = prompt_mask[0]")],
        ("tests/property/test_block_rule.py",),
    ),
    Bug(
        "PaliGemma: last rows of the vocabulary",
        [Edit(PALIGEMMA, "table[:rows]", "table[-rows:]")],
        PALIGEMMA_TESTS,
    ),
    Bug(
        "PaliGemma: lm_head preferred to embed_tokens",
        [
            Edit(
                PALIGEMMA,
                '"embed_tokens.weight" not in keys and "lm_head.weight" in keys',
                '"lm_head.weight" in keys',
            ),
            Edit(PALIGEMMA, r"lm_head\.weight", r"(lm_head|embed_tokens)\.weight"),
        ],
        PALIGEMMA_TESTS,
    ),
    # what the golden cases say of mistakes: `max_abs_change_when` in case.json
    Bug(
        "camera_mask_ignored",
        [Edit(PI0, "patches = image_mask.repeat", "patches = torch.ones_like(image_mask).repeat")],
        OPENPI,
    ),
    Bug(
        "prompt_mask_ignored",
        [Edit(PI0, "torch.cat([patches, prompt_mask], dim=1)", "torch.cat([patches, prompt_mask | True], dim=1)")],
        OPENPI,
    ),
    Bug("time_flipped", [Edit(HEADS, "time_embedding(t, c.time_width", "time_embedding(1 - t, c.time_width")], OPENPI),
    Bug(
        "time_flipped, pi0.5",
        [Edit(HEADS, "time_embedding(t, c.time_width", "time_embedding(1 - t, c.time_width")],
        LEROBOT_PI05,
    ),
    Bug(
        "missing_camera: an absent one counts as a black picture",
        [
            Edit(
                TRANSFORM,
                "image_mask = np.zeros(images.shape[:2], bool)",
                "image_mask = np.ones(images.shape[:2], bool)",
            )
        ],
        LEROBOT_PI0 + LEROBOT_PI05,
    ),
    Bug(
        "padding_ignored, under a soft cap",
        [Edit(GEMMA, "logits = logits.masked_fill(~mask, -torch.inf)", "pass")],
        OPEN_PI_ZERO + ADALN,
    ),
    Bug("no_softcap", [Edit(THEIR_PT, "attention_softcap=SOFTCAP", "attention_softcap=None")], OPEN_PI_ZERO + ADALN),
    Bug(
        "other_rope: that of the vlm in the action expert",
        [Edit(THEIR_PT, 'gemma("action", facts.action_rope_base)', 'gemma("action", facts.vlm_rope_base)')],
        OPEN_PI_ZERO,
    ),
    Bug(
        "other_time_period",
        [Edit(THEIR_PT, "geometric_periods(facts.time_max_period)", "geometric_periods(2 * facts.time_max_period)")],
        OPEN_PI_ZERO + ADALN,
    ),
    Bug(
        "adapters_dropped",
        [Edit(ORBAX_LORA, "weight.double() + scale * (a.double() @ second)", "weight.double()")],
        LORA,
    ),
    Bug(
        "merged_perhead: no sum over the heads",
        [Edit(ORBAX_LORA, "b.double().sum(0) if over_heads else b.double()", "b.double()")],
        LORA,
    ),
    Bug(
        "merged_ffnscale: feed-forward adapters scaled like those of attention",
        [Edit(ORBAX, "Adapter(rank, 1.0)", "Adapter(rank, attention_scale(expert, attention, facts))")],
        LORA,
    ),
    # weights of other programs
    Bug(
        "time columns not turned",
        [Edit(OPENPI_PT, "lambda weight: turn_columns(weight, config)", "torch.Tensor.double")],
        OPENPI + LEROBOT_PI05,
    ),
    Bug(
        "sines and cosines turned the same way",
        [Edit(TURN, "cosines * sin - sines * cos", "cosines * sin + sines * cos")],
        OPENPI + LEROBOT_PI05,
    ),
    Bug("read-out not negated", [Edit(OPENPI_PT, "change(recipes[name], torch.neg)", "recipes[name]")], OPENPI),
    Bug("bias of the read-out not negated", [Edit(TURN, ', "heads.action_out_proj.bias")', ",)")], OPENPI),
    Bug(
        "open-pi-zero: state not scaled by sqrt(width)",
        [Edit(THEIR_PT, r"heads\.(state_proj|action(_time)?_mlp_out)\.", r"heads\.(action(_time)?_mlp_out)\.")],
        OPEN_PI_ZERO + ADALN,
    ),
    Bug(
        "open-pi-zero: state scaled twice",
        [
            Edit(
                THEIR_PT,
                "_scale(recipes[name], config.action.width)",
                '_scale(recipes[name], config.action.width ** (2 if "state" in name else 1))',
            )
        ],
        OPEN_PI_ZERO + ADALN,
    ),
    Bug(
        "open-pi-zero: action tokens not scaled by sqrt(width)",
        [Edit(THEIR_PT, r"heads\.(state_proj|action(_time)?_mlp_out)\.", r"heads\.(state_proj)\.")],
        OPEN_PI_ZERO + ADALN,
    ),
    Bug("open-pi-zero: time left before the actions", [Edit(THEIR_PT, "dim=1)[::-1]", "dim=1)")], OPEN_PI_ZERO),
    Bug(
        "open-pi-zero: positions counted", [Edit(THEIR_PT, 'positions="restart"', 'positions="counted"')], OPEN_PI_ZERO
    ),
    Bug(
        "open-pi-zero: gates of the two sublayers swapped",
        [
            Edit(THEIR_PT, r"\1.post_adaptive_scale.to", r"\1.other_adaptive_scale.to"),
            Edit(THEIR_PT, r"\1.final_adaptive_scale.to", r"\1.post_adaptive_scale.to"),
            Edit(THEIR_PT, r"\1.other_adaptive_scale.to", r"\1.final_adaptive_scale.to"),
        ],
        ADALN,
    ),
    Bug(
        "lerobot: lm_head preferred to embed_tokens",
        [
            Edit(
                OPENPI_PT,
                'if key_of("embed_tokens.weight") not in source.tensors and tied in source.tensors',
                "if tied in source.tensors",
            ),
            Edit(LEROBOT, r"paligemma\.lm_head\.weight", r"paligemma\.(lm_head|.*embed_tokens)\.weight"),
        ],
        LEROBOT_PI0 + LEROBOT_PI05,
    ),
    Bug(
        "orbax: keys and values swapped",
        [
            Edit(ORBAX_RECIPES, "kv, (2, m, d, h), pick=lambda x: x[0]", "kv, (2, m, d, h), pick=lambda x: x[-1]"),
            Edit(ORBAX_RECIPES, "kv, (2, m, d, h), pick=lambda x: x[1]", "kv, (2, m, d, h), pick=lambda x: x[0]"),
        ],
        LORA,
    ),
    Bug(
        "orbax: gate and up swapped",
        [
            Edit(ORBAX_RECIPES, "gating, both, pick=lambda x: x[0]", "gating, both, pick=lambda x: x[-1]"),
            Edit(ORBAX_RECIPES, "gating, both, pick=lambda x: x[1]", "gating, both, pick=lambda x: x[0]"),
        ],
        LORA,
    ),
    Bug(
        "orbax: time not rounded as in JAX",
        [Edit(ORBAX, 'time_rounding="openpi-jax"', 'time_rounding="none"')],
        JAX_TESTS,
    ),
    # the switches
    Bug("gates left out", [Edit(NORM, "return x + y if gate is None else x + y * gate", "return x + y")], MODEL),
    Bug(
        "gates left out, pi0.5",
        [Edit(NORM, "return x + y if gate is None else x + y * gate", "return x + y")],
        LEROBOT_PI05,
    ),
    Bug("gate of the attention left out", [Edit(GEMMA, "mask, self.softcap)), gate)", "mask, self.softcap)), None)")]),
    Bug("gate of the feed-forward network left out", [Edit(GEMMA, "self.mlp(y), gate)", "self.mlp(y), None)")]),
    Bug("scale and shift swapped", [Edit(NORM, "scale, shift, gate =", "shift, scale, gate =")], MODEL),
    Bug("scale and shift swapped, pi0.5", [Edit(NORM, "scale, shift, gate =", "shift, scale, gate =")], LEROBOT_PI05),
    Bug("pi0.5: scale instead of 1 + scale", [Edit(NORM, "* (1 + scale) + shift).to", "* scale + shift).to")], MODEL),
    Bug(
        "pi0.5: no second activation of the time",
        [Edit(HEADS, "F.silu(self.time_mlp_out(", "(self.time_mlp_out(")],
        MODEL,
    ),
    Bug(
        "adaLN: scale without sigmoid",
        [Edit(NORM, "self.to_gamma(condition).sigmoid()", "self.to_gamma(condition)")],
        MODEL,
    ),
    Bug(
        "adaLN: gate without sigmoid",
        [Edit(NORM, "self.to_gate(condition).sigmoid()", "self.to_gate(condition)")],
        MODEL,
    ),
    Bug(
        "adaLN: the last norm gets gates, too, and the inner ones none",
        [Edit(NORM, 'inner and conditioning == "adaln-zero"', 'not inner and conditioning == "adaln-zero"')],
        MODEL,
    ),
    Bug(
        "the state's norms are of t = 1 when sampling",
        [Edit(PI0, "torch.zeros_like(observation.state[:, 0])", "torch.ones_like(observation.state[:, 0])")],
    ),
    Bug(
        "the state's norms are of t = 0 in the loss",
        [Edit(PI0, "repeat_interleave(draws, 0), t)", "repeat_interleave(draws, 0), t * 0)")],
    ),
    Bug(
        "draws of the state not side by side",
        [Edit(PI0, "observation.state.repeat_interleave(draws, 0)", "observation.state.repeat(draws, 1)")],
    ),
    Bug(
        "the last layer's keys do not see the time",
        [
            Edit(
                GEMMA,
                "only_kv(x, table, condition)",
                "only_kv(x, table, condition * 0 if condition is not None else None)",
            )
        ],
    ),
    Bug("soft cap in the vlm alone", [Edit(PI0, "adaptive, config.attention_softcap)", "adaptive)")]),
    Bug(
        "soft cap in the action expert alone",
        [Edit(PI0, "Gemma(config.vlm, softcap=config.attention_softcap)", "Gemma(config.vlm)")],
    ),
    Bug(
        "soft cap before the division by sqrt(head_dim)",
        [
            Edit(
                GEMMA,
                "softcap * torch.tanh(q @ k.mT * q.shape[-1] ** -0.5 / softcap)",
                "softcap * torch.tanh(q @ k.mT / softcap) * q.shape[-1] ** -0.5",
            )
        ],
    ),
    Bug("soft cap not multiplied back", [Edit(GEMMA, "logits = softcap * torch.tanh", "logits = torch.tanh")]),
    Bug("positions restart from 0", [Edit(PI0, 'int(self.config.positions == "restart")', "0")]),
    Bug(
        "restarted positions forget the state",
        [Edit(PI0, "self._first_position + offset + torch", "self._first_position + torch")],
    ),
    Bug(
        "rotary base of the vlm in both experts",
        [Edit(GEMMA, "* base**-exponent", "* 10_000.0**-exponent")],
    ),
    Bug("grid of the config ignored", [Edit(PI0, "grid = self.config.euler_grid", 'grid = "even"')]),
    Bug(
        "openpi's time multiplied, not added up",
        [
            Edit(
                FLOW,
                "[1 - time for time in _summed(1.0, -1 / num_steps, num_steps, torch.float32)]",
                "[1 - torch.tensor(1 - step / num_steps).item() for step in range(num_steps)]",
            )
        ],
        FLOW_TESTS,
    ),
    Bug(
        "open-pi-zero's time added up in float32",
        [
            Edit(
                FLOW,
                "_summed(0.0, 1 / num_steps, num_steps, dtype)",
                "_summed(0.0, 1 / num_steps, num_steps, torch.float32)",
            )
        ],
        FLOW_TESTS,
    ),
    Bug("flow time rounded to float32", [Edit(FLOW, "else torch.float64", "else torch.float32")], FLOW_TESTS),
    Bug(
        "heads in the type of the network",
        [Edit(PI0, 'torch.float32 if name.startswith("heads.") else dtype', "dtype")],
    ),
    Bug(
        "heads compute in the type of what they are given",
        [
            Edit(
                HEADS,
                "self.action_out_proj(x.to(self.dtype))",
                "F.linear(x, self.action_out_proj.weight.to(x.dtype), self.action_out_proj.bias.to(x.dtype))",
            )
        ],
        MODEL,
    ),
    Bug("angles of the time in float32", [Edit(HEADS, "else torch.float64", "else torch.float32")], MODEL),
    # data and robots
    Bug(
        "quantiles with the epsilon of bounds",
        [Edit(NORMALIZE, '(BOUNDS_EPS if mode == "bounds" else OPENPI_EPS)', "BOUNDS_EPS")],
        cases("data_normalize"),
    ),
    Bug(
        "bounds with the epsilon of quantiles",
        [Edit(NORMALIZE, '(BOUNDS_EPS if mode == "bounds" else OPENPI_EPS)', "OPENPI_EPS")],
        ("tests/unit/data/test_normalize.py", *cases("data_simpler_env_adapter")),
    ),
    Bug(
        "lerobot's quantiles with an epsilon always",
        [Edit(NORMALIZE, "np.where(spread == 0, dtype(LEROBOT_EPS), spread)", "spread + dtype(OPENPI_EPS)")],
        ("tests/parity/test_lerobot_data.py",),
    ),
    Bug(
        "the prompt of pi0.5 not cleaned",
        [Edit(PROMPT, 'f"Task: {clean(prompt)}, State', 'f"Task: {prompt}, State')],
        cases("data_prompts"),
    ),
    Bug(
        "bins of the state one too high",
        [Edit(PROMPT, "np.digitize(state, STATE_EDGES) - 1", "np.digitize(state, STATE_EDGES)")],
        cases("data_prompts"),
    ),
    Bug(
        "255 bins of the state",
        [Edit(PROMPT, "np.linspace(-1, 1, 257)[:-1]", "np.linspace(-1, 1, 256)[:-1]")],
        cases("data_prompts"),
    ),
    Bug(
        "the state not added back to relative actions",
        [Edit(UNITS, "self._shift(actions, self.state(state), 1)", "actions")],
        cases("data_normalize"),
    ),
    Bug(
        "actions made relative with the wrong sign",
        [Edit(UNITS, "self.state(state), -1)", "self.state(state), 1)")],
        cases("data_normalize"),
    ),
    Bug(
        "Google robot: gripper's sign",
        [Edit(FRACTAL, "command = 1 - 2 * action", "command = 2 * action - 1")],
        cases("data_simpler_env_adapter"),
    ),
    Bug(
        "Google robot: state's gripper is 1 open",
        [Edit(FRACTAL, "1 - pose[..., 7:]", "pose[..., 7:]")],
        cases("data_simpler_env_adapter"),
    ),
    Bug(
        "Google robot: quaternion not reordered",
        [Edit(FRACTAL, "to_xyzw(pose[..., 3:7])", "pose[..., 3:7]")],
        cases("data_simpler_env_adapter"),
    ),
    Bug(
        "Bridge: quaternion read with w last",
        [Edit(BRIDGE, "quaternion_to_matrix(pose[..., 3:7])", "quaternion_to_matrix(np.roll(pose[..., 3:7], 1, -1))")],
        cases("data_simpler_env_adapter"),
    ),
    Bug(
        "Bridge: pose not relative to a hand that looks down",
        [Edit(BRIDGE, " @ TOP_DOWN.T", "")],
        cases("data_simpler_env_adapter"),
    ),
    Bug(
        "Bridge: the other way round relative to a hand that looks down",
        [Edit(BRIDGE, " @ TOP_DOWN.T", " @ TOP_DOWN")],
        cases("data_simpler_env_adapter"),
    ),
    Bug(
        "axis and angle brought below pi",
        [Edit(ROTATION, "2 * np.arctan2(sine, q[..., 0])", "2 * np.arctan2(sine, np.abs(q[..., 0]))")],
        cases("data_simpler_env_adapter"),
    ),
    # training
    Bug(
        "training: a process's part of the loss not times the number of processes",
        [Edit(STEP, "weight = share * world.size", "weight = share")],
        SHARED,
    ),
    Bug(
        "training: each process draws the noise of the first",
        [Edit(STEP, "first = world.part(config.batch_size).start + i * rows", "first = i * rows")],
        SHARED,
    ),
    Bug(
        "training: every piece of a batch counts alike",
        [Edit(STEP, "int(piece.action_mask.sum()) / batch.total", "1 / (world.size * config.accumulate)")],
        SHARED,
    ),
    Bug(
        "training: the norm of one process's part clips",
        [Edit("train/clip.py", "dist.all_reduce(square)", "pass")],
        SHARED,
    ),
    Bug(
        "training: the average forgets nothing early",
        [Edit("train/ema.py", "(1 + num_updates) / (10 + num_updates)", "1.0")],
        ("tests/unit/train/test_ema.py",),
    ),
    Bug(
        "training: stochastic rounding always down",
        [Edit("train/rounding.py", "random.add_(values", "random.zero_().add_(values")],
        ("tests/unit/train/test_rounding.py",),
    ),
    Bug(
        "training: vectors decay like matrices",
        [Edit("train/optimizer.py", "config.weight_decay * matrices", "config.weight_decay")],
        ("tests/unit/train/test_optimizer.py",),
    ),
    Bug(
        "LoRA: alpha not over the rank",
        [Edit(LORA_LAYER, "alpha / rank, dropout", "alpha, dropout")],
        LORA_TESTS,
    ),
    Bug(
        "LoRA: gradient of A without the scale",
        [Edit(LORA_LAYER, "b * ctx.scale", "b")],
        LORA_TESTS,
    ),
    Bug(
        "LoRA: product merged without the scale",
        [Edit(LORA_LAYER, "scale * (b.detach()", "(b.detach()")],
        LORA_TESTS,
    ),
    Bug(
        "mixture: every epoch in the same order",
        [Edit("data/mix.py", "ORDER_STREAM, epoch, source]", "ORDER_STREAM, 0, source]")],
        ("tests/unit/data/test_mix.py",),
    ),
    Bug(
        "augmentation: cropped from the corner",
        [Edit("data/augment.py", "(offset + 0.5) * side[:, None] - 0.5 + corner", "offset * side[:, None]")],
        ("tests/unit/data/test_augment.py",),
    ),
    Bug(
        "validation: one dimension near enough makes a timestep right",
        [Edit("train/validate.py", "(below.all(-1) & timestep)", "(below.any(-1) & timestep)")],
        ("tests/unit/train/test_validate.py",),
    ),
    Bug(
        "validation: padded timesteps count",
        [Edit("train/validate.py", "timestep = mask.any(-1)", "timestep = mask.any(-1) | True")],
        ("tests/unit/train/test_validate.py",),
    ),
]


def plant(bug: Bug, package: Path) -> None:
    """Edit the copy; stops the program when a text is not there exactly once, since then the package has moved on."""
    for file, right, wrong in bug.edits:
        text = (package / file).read_text()
        if text.count(right) != 1:
            sys.exit(
                f"{bug.name}: in {file}, found {text.count(right)} times, not once: {right!r}; bring this up to date"
            )
        (package / file).write_text(text.replace(right, wrong))


def run_tests(home: Path, tests: Sequence[str]) -> Sighting:
    """Run some tests against the package in `home`."""
    report = home / "report.xml"
    paths = os.pathsep.join(filter(None, [str(home), os.environ.get("PYTHONPATH")]))
    env = {**os.environ, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    where = subprocess.run(
        [sys.executable, "-c", "import pizero; print(pizero.__file__)"],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
    )
    if not where.stdout.startswith(str(home)):
        sys.exit(f"the tests would not import the copy: {where.stdout}{where.stderr}")
    options = [
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "one_failure_is_enough",
        f"--junitxml={report}",
        "--hypothesis-seed=0",
        f"--maxfail={ENOUGH}",
        "-o",
        "addopts=",  # shapes are not checked: a bug must show in numbers
    ]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *tests], cwd=ROOT, env=env, capture_output=True, text=True
    )
    if done.returncode not in (0, 1):  # 1: tests failed; more: they did not run
        sys.exit(f"the tests did not run:\n{done.stdout}\n{done.stderr}")
    failed, crashes = [], []
    for case in ElementTree.parse(report).iter("testcase"):
        name = f"{case.get('classname', '').split('.')[-1]}::{case.get('name')}"
        for outcome in (*case.findall("failure"), *case.findall("error")):
            (failed if "AssertionError" in (outcome.text or "") else crashes).append(name)
    return Sighting(failed, crashes)


def try_bug(bug: Bug) -> Sighting:
    """The tests against a fresh copy of the package with one bug in it."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        shutil.copytree(ROOT / "src" / "pizero", home / "pizero", ignore=shutil.ignore_patterns("__pycache__"))
        (home / "one_failure_is_enough.py").write_text(PLUGIN)
        plant(bug, home / "pizero")
        return run_tests(home, bug.tests)


def main() -> int:
    """0 when every bug was seen, 1 when one was not."""
    bugs = [bug for bug in BUGS if all(word in bug.name for word in sys.argv[1:])]
    if not bugs:
        sys.exit(f"no bug is called like that; there are: {', '.join(bug.name for bug in BUGS)}")
    for bug in bugs:
        with tempfile.TemporaryDirectory() as folder:  # a text that is not there any more stops the program at once
            shutil.copytree(ROOT / "src" / "pizero", Path(folder) / "pizero")
            plant(bug, Path(folder) / "pizero")
    print("running the tests without a bug", file=sys.stderr)
    start = time.monotonic()
    clean = try_bug(Bug("none", [], tuple(dict.fromkeys(test for bug in bugs for test in bug.tests))))
    if clean.tests or clean.crashes:
        sys.exit(f"tests fail without any bug: {', '.join(clean.tests + clean.crashes)}")
    print("| bug | tests that see it | for example |\n|---|---|---|")
    survived = 0
    with ThreadPoolExecutor(WORKERS) as pool:
        for bug, sighting in zip(bugs, pool.map(try_bug, bugs), strict=True):
            survived += not sighting.tests
            stopped = len(sighting.tests + sighting.crashes) >= ENOUGH
            count = f"{len(sighting.tests) or '**none**'}{' or more' if stopped else ''}"
            example = sighting.tests[0] if sighting.tests else f"crashes: {', '.join(sighting.crashes) or 'none'}"
            print(f"| {bug.name} | {count} | `{example}` |", flush=True)
    seconds = time.monotonic() - start
    print(f"{len(bugs) - survived} of {len(bugs)} bugs seen in {seconds:.0f} s", file=sys.stderr)
    return int(survived > 0)


if __name__ == "__main__":
    sys.exit(main())
