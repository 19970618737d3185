"""Golden cases of the reference implementations against this one: python tools/verify_case.py CASE_DIR... [--json]

Imports the checkpoint of each case folder as `pizero import` does, runs it on the case's inputs, and prints for every
expected array the largest absolute difference and the largest relative to the array's largest value. Exit code 1 when
one is beyond its tolerance: 1e-5 relative in float32 (1e-4 for sampled actions; 1e-4 absolute against JAX, which embeds
time in float32). Arrays that the reference computed in bfloat16 are computed here in float32, as a CPU does: the bound
is the difference that the reference shows to its own float32; and in bfloat16, as a GPU does: 2.5 times that, since the
roundings fall in other places. What a case folder is:
`case.json`, `inputs.npz`, `expected_<dtype>.npz` and a checkpoint; see tests/parity/golden/README.md.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import verify_data
import verify_simpler
from torch import Tensor

from pizero import flow
from pizero.data.images import to_model
from pizero.data.normalize import Normalizer
from pizero.frame import Frame
from pizero.model.pi0 import Pi0
from pizero.types import Observation
from pizero.weights.facts import Facts
from pizero.weights.importer import load_foreign, make_transform, read_foreign

Arrays = Mapping[str, np.ndarray]
Outputs = Callable[[str], np.ndarray]
"""outputs(name): ours for an expected array."""
DTYPES = ("float32", "bfloat16")
RELATIVE, SAMPLED, JAX = 1e-5, 1e-4, 1e-4
ELSEWHERE = 2.5
"""Two roundings to bfloat16 at different places are this many times as far apart as one is from none, at most."""


@dataclass(frozen=True)
class Difference:
    """How far one array is from what is expected."""

    case: str
    array: str
    max_abs: float
    max_rel: float
    tolerance: str
    ok: bool


class Case:
    """A folder with its description, its inputs and what is expected of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.info: dict[str, Any] = json.loads((folder / "case.json").read_text())
        self.family: str = self.info["family"]
        self.config: dict[str, Any] = self.info.get("config", {})
        self.name = f"{self.family}/{self.info['case']}"

    def load(self, file: str) -> dict[str, np.ndarray]:
        """The arrays of one of its files."""
        with np.load(self.folder / file) as arrays:
            return dict(arrays)

    def inputs(self) -> dict[str, Tensor]:
        """Its inputs as tensors."""
        return {name: torch.from_numpy(array) for name, array in self.load("inputs.npz").items()}

    def expected(self) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
        """What is expected, by dtype of the computation."""
        for dtype in DTYPES:
            if (self.folder / f"expected_{dtype}.npz").is_file():
                yield dtype, self.load(f"expected_{dtype}.npz")

    def facts(self, **more: Any) -> Facts:
        """What the case's description says that its checkpoint does not."""
        return Facts(vision_heads=self.config["vision"]["num_attention_heads"], **more)


def main() -> int:
    """Verify the cases of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="+", type=Path)
    parser.add_argument("--json", action="store_true", help="one JSON list on stdout instead of tables")
    args = parser.parse_args()
    differences = [difference for folder in args.cases for difference in verify(Case(folder))]
    if args.json:
        print(json.dumps([asdict(difference) for difference in differences], indent=1))
    else:
        for difference in differences:
            print(line(difference))
    wrong = [difference for difference in differences if not difference.ok]
    print(f"{len(differences) - len(wrong)} of {len(differences)} arrays agree", file=sys.stderr)
    return 1 if wrong else 0


def line(d: Difference) -> str:
    """One row of the table."""
    mark = "ok" if d.ok else "WRONG"
    return f"{d.case:36} {d.array:34} abs {d.max_abs:9.2e}  rel {d.max_rel:9.2e}  ({d.tolerance})  {mark}"


@torch.inference_mode()
def verify(case: Case) -> Iterator[Difference]:
    """Every expected array of a case against ours."""
    if case.family == "data":
        yield from verify_data_case(case)
        return
    known = dict(case.expected())
    for label, outputs in OUTPUTS[case.family](case, torch.float32):
        exact = known.get("float32", {})
        for name, theirs in exact.items():
            yield compare(case.name + label, f"float32 {name}", outputs(name), theirs, *tolerance(case, name))
        if "bfloat16" in known:
            rounded = next(OUTPUTS[case.family](case, torch.bfloat16))[1]
            yield from verify_bfloat16(case, known["bfloat16"], exact, outputs, rounded)


def verify_bfloat16(
    case: Case, expected: Arrays, exact: Arrays, outputs: Outputs, rounded: Outputs
) -> Iterator[Difference]:
    """Arrays that the reference computed in bfloat16, against ours in float32 and in bfloat16."""
    for name, theirs in expected.items():
        ours = np.asarray(outputs(name), np.float64)
        own = float(np.abs(theirs - np.asarray(exact.get(name, ours), np.float64)).max())
        if name in exact:  # otherwise ours is what the difference of the reference to its own float32 is measured with
            limit, relative = tolerance(case, name)
            slack = limit * float(np.abs(theirs).max()) if relative else limit
            yield compare(case.name, f"bfloat16 {name} in float32", ours, theirs, own + slack, False)
        yield compare(case.name, f"bfloat16 {name}", rounded(name), theirs, ELSEWHERE * own + RELATIVE, False)


def compare(
    case: str, array: str, ours: np.ndarray, theirs: np.ndarray, tolerance: float, relative: bool
) -> Difference:
    """The difference of two arrays of one shape."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if ours.shape != theirs.shape:
        raise SystemExit(f"{case}: {array} has shape {ours.shape}, expected {theirs.shape}")
    absolute = float(np.abs(ours - theirs).max(initial=0.0))
    ratio = absolute / max(float(np.abs(theirs).max(initial=0.0)), 1e-30) if absolute else 0.0
    ok = (ratio if relative else absolute) <= tolerance
    return Difference(case, array, absolute, ratio, f"{tolerance:.1e} {'rel' if relative else 'abs'}", ok)


def tolerance(case: Case, name: str) -> tuple[float, bool]:
    """How far an array of float32 may be away, and whether relative to its largest value."""
    if case.family == "openpi_jax":
        return JAX * (10 if name == "loss" else 1), False
    sampled = any(word in name for word in ("actions_N", "actions_env", "unclipped", "steps_", "chunk", "select"))
    return (SAMPLED if sampled else RELATIVE), True


def openpi_outputs(case: Case, dtype: torch.dtype) -> Iterator[tuple[str, Outputs]]:
    """openpi in PyTorch and JAX: what each expected array is here."""
    lora = case.config.get("lora") or {}
    alpha = float(lora["attn"]["alpha"]) if lora else None
    rslora = lora["attn"]["rslora"] if lora else None
    facts = case.facts(horizon=case.config["action_horizon"], lora_alpha=alpha, lora_rslora=rslora)
    foreign = read_foreign(case.folder, {"case.json": facts})
    inputs = case.inputs()
    observation = Observation(
        images=to_model(inputs["images_uint8"].transpose(0, 1).numpy()),
        prompt=inputs["tokenized_prompt"].long(),
        state=inputs["state"],
        image_mask=inputs["image_masks"].T,
        prompt_mask=inputs["tokenized_prompt_mask"],
    )
    run = ReversedRun(load_foreign(foreign, dtype), observation, inputs)
    action = foreign.facts.stats.actions
    names = [str(i) for i in range(case.config["robot_action_dim"])]
    normalizer = Normalizer(foreign.facts.normalization, action, names)

    def outputs(name: str) -> np.ndarray:
        if name == "image_embeddings":
            tokens = run.model.embed_images(run.observation.images).unflatten(1, (observation.images.shape[1], -1))
            return numpy(tokens.transpose(0, 1))
        if name.startswith("actions_env_N"):
            own = run.sample(int(name.removeprefix("actions_env_N")))[..., : len(names)]
            return normalizer.invert(numpy(own))
        return run.output(name)

    yield "", outputs


class ReversedRun:
    """A model whose reference has t = 1 for noise: its outputs, turned round."""

    def __init__(self, model: Pi0, observation: Observation, inputs: Mapping[str, Tensor]) -> None:
        self.model, self.inputs = model, inputs
        self.dtype = model.embed_tokens.weight.dtype
        self.observation = observation.to("cpu", self.dtype)
        self.cache = model.prefill(self.observation)

    def output(self, name: str) -> np.ndarray:
        """An expected array by its name."""
        t = 1 - self.inputs["time"].double()
        x_t = flow.interpolate(self.inputs["noise"], self.actions, t, sigma_min=0.0).float()
        if name == "x_t":
            return numpy(x_t)
        if name == "prefix_embeddings":
            return numpy(self.model.embed_prefix(self.observation)[0])
        if name in ("v", "v_cached"):
            return -numpy(self.model.velocity(self.cache, x_t, t))
        if name.startswith("loss"):
            v_t = self.model.velocity(self.cache, x_t, t).float()
            loss = (v_t - flow.target_velocity(self.inputs["noise"], self.actions, sigma_min=0.0)).square()
            return numpy(loss if name == "loss" else loss.mean(-1))
        if name.startswith("actions_N"):
            return numpy(self.sample(int(name.removeprefix("actions_N"))))
        if name.startswith("steps_"):
            what, num_steps = name.removeprefix("steps_").split("_N")
            return self.steps(int(num_steps))[what]
        raise SystemExit(f"expected array {name} is not known")

    @property
    def actions(self) -> Tensor:
        """The clean chunk, in model units and padded."""
        return self.inputs["actions"]

    def sample(self, num_steps: int) -> Tensor:
        """Sampled actions."""
        return self.model.sample(self.observation, num_steps, noise=self.inputs["start_noise"])

    def steps(self, num_steps: int) -> dict[str, np.ndarray]:
        """Time, actions and velocity at each Euler step, in the reference's direction."""
        seen = record_steps(self.model, self.cache, self.inputs["start_noise"], num_steps)
        return {"t": 1 - seen["t"], "x": seen["x"], "v": -seen["v"]}


def record_steps(model: Pi0, cache: Any, noise: Tensor, num_steps: int) -> dict[str, np.ndarray]:
    """Time, actions and velocity at each Euler step."""
    seen: dict[str, list[np.ndarray]] = {"t": [], "x": [], "v": []}

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        v = model.velocity(cache, x, t)
        for name, value in (("t", t[0]), ("x", x), ("v", v)):
            seen[name].append(numpy(value))
        return v

    grid, dtype = model.config.euler_grid, model.embed_tokens.weight.dtype
    flow.integrate(velocity, noise, num_steps, grid, dtype)
    return {name: np.stack(values) for name, values in seen.items()}


def lerobot_outputs(case: Case, dtype: torch.dtype) -> Iterator[tuple[str, Outputs]]:
    """lerobot's policy with its processors: the whole way from frames to actions in real units."""
    foreign = read_foreign(case.folder, {"case.json": case.facts()})
    transform = make_transform(foreign, case.folder)
    inputs = case.inputs()
    robot = transform.config.embodiment

    def observe(present: tuple[int, ...]) -> Observation:
        frames = [
            Frame(
                {robot.cameras[i]: inputs["images_uint8"][i, row].numpy() for i in present},
                inputs["raw_state"][row].numpy(),
                task,
            )
            for row, task in enumerate(case.info["tasks"])
        ]
        return transform.observation(frames)

    everything = observe(tuple(range(len(robot.cameras))))
    raw_state, raw_actions = inputs["raw_state"].numpy(), inputs["raw_actions"].numpy()
    chunk = transform.actions(raw_actions, np.ones(raw_actions.shape[:2], bool), raw_state).values
    width, num_steps = len(robot.actions), 10
    masked = Observation(
        everything.images, everything.prompt, everything.state, inputs["row_image_masks"].T, everything.prompt_mask
    )
    model = load_foreign(foreign, dtype)
    run = ReversedRun(model, masked, inputs | {"actions": chunk})
    plain = ReversedRun(model, everything, inputs | {"actions": chunk})
    partial = ReversedRun(model, observe(tuple(i for i in range(len(robot.cameras)) if i != 1)), inputs)

    def outputs(name: str) -> np.ndarray:
        if name == "tokens":
            return numpy(everything.prompt)
        if name == "token_mask":
            return numpy(everything.prompt_mask)
        if name == "state_normalized":
            return numpy(everything.state[:, : len(robot.state)])
        if name == "actions_normalized":
            return numpy(chunk[..., :width])
        if name == "images_model":
            return numpy(everything.images.transpose(0, 1))
        if name.startswith("policy_loss"):
            loss = torch.from_numpy(plain.output("loss"))[..., :width]
            return numpy(loss.mean((1, 2)) if name.endswith("per_sample") else loss.mean())
        if name.removeprefix("env_") in ("chunk_all", "chunk_missing_middle"):
            actions = (plain if name.endswith("all") else partial).sample(num_steps)
            return (
                transform.invert_actions(actions, raw_state) if name.startswith("env_") else numpy(actions)[..., :width]
            )
        if name == "select_action":
            steps = json.loads((case.folder / "config.json").read_text())["n_action_steps"]
            return transform.invert_actions(plain.sample(num_steps), raw_state).swapaxes(0, 1)[:steps]
        return run.output(name)

    yield "", outputs


def open_pi_zero_outputs(case: Case, dtype: torch.dtype) -> Iterator[tuple[str, Outputs]]:
    """open-pi-zero: t runs as here."""
    config = case.config
    facts = case.facts(
        horizon=config["horizon_steps"],
        action_rope_base=float(config["expert_rope_theta"]),
        time_max_period=float(config["time_max_period"]),
    )
    model = load_foreign(read_foreign(case.folder / case.info["checkpoint"], {"case.json": facts}), dtype)
    inputs, sigma_min, clip = case.inputs(), config["flow_sig_min"], config["final_action_clip_value"]
    first = config["num_image_tokens"]
    observation = Observation(
        images=inputs["pixel_values"][:, None],
        prompt=inputs["input_ids"][:, first:],
        state=inputs["proprios"][:, 0],
        prompt_mask=inputs["attention_mask"][:, first:].bool(),
    ).to("cpu", dtype)
    t, noise, clean = (inputs[name].to(dtype) for name in ("t", "noise", "actions"))
    x_t = flow.interpolate(noise, clean, t, sigma_min)
    cache = model.prefill(observation)

    def velocity() -> Tensor:
        there = model.append_state(model.prefill_prefix(observation), observation.state, t)
        return model.velocity(there, x_t, t).float()

    def outputs(name: str) -> np.ndarray:
        name = name.removeprefix("naive_")
        if name == "image_features":
            return numpy(model.embed_images(observation.images))
        if name == "x_t":
            return numpy(x_t)
        if name in ("v", "v_unmerged"):
            return numpy(velocity())
        if name.startswith("loss"):
            u_t = flow.target_velocity(noise, clean, sigma_min)
            loss = (velocity() - u_t).square().mean((1, 2))
            return numpy(loss if name == "loss_per_sample" else loss.mean())
        if name.startswith("steps_"):
            what, num_steps = name.removeprefix("steps_").split("_N")
            return record_steps(model, cache, inputs["start_noise"], int(num_steps))[what]
        if name.startswith("actions"):
            actions = model.sample(observation, int(name.split("_N")[1]), noise=inputs["start_noise"])
            return numpy(actions if "unclipped" in name or clip is None else actions.clamp(-clip, clip))
        raise SystemExit(f"expected array {name} is not known")

    yield "", outputs


def paligemma_outputs(case: Case, dtype: torch.dtype) -> Iterator[tuple[str, Outputs]]:
    """PaliGemma in every layout of the case: image features, and words by the tied embedding."""
    for layout in case.info["layouts"]:
        foreign = read_foreign(case.folder / layout, {"case.json": Facts(fresh_expert=0, horizon=1)})
        yield f" {layout}", words_of(load_foreign(foreign, dtype), case)


def words_of(model: Pi0, case: Case) -> Outputs:
    """The outputs of a PaliGemma on a case's inputs."""
    inputs = case.inputs()
    images, lengths = inputs["pixel_values"], inputs["prefix_len"]
    patches, longest = model.config.vision.num_patches, int(lengths.max())
    ids, real = inputs["input_ids"], inputs["attention_mask"].bool()
    in_prefix = torch.arange(longest) < lengths[:, None]

    def embed(row: int, length: int) -> tuple[Tensor, Tensor]:
        tokens = torch.cat(
            [model.embed_images(images[row, None, None]), model.embed_prompt(ids[row : row + 1, patches:length])], 1
        )
        return tokens, torch.arange(length)[None]

    def prefix(function: Callable[[Tensor, Tensor], Tensor], width: int) -> np.ndarray:
        out = torch.zeros(len(ids), longest, width)
        for row, length in enumerate(lengths.tolist()):
            out[row, :length] = function(*embed(row, length))[0]
        assert bool((out[~in_prefix] == 0).all())
        return numpy(out)

    def logits(hidden: Tensor) -> Tensor:
        return hidden @ model.embed_tokens.weight.T

    def suffix_logits() -> np.ndarray:
        out = torch.zeros(*ids.shape, model.config.vocab_size)
        for row, length in enumerate(lengths.tolist()):
            tokens, positions = embed(row, length)
            out[row, :length] = logits(model.vlm(tokens, positions))[0]
            past = model.vlm.cache(tokens, positions)
            for place in range(length, int(real[row].sum())):  # a suffix is causal: one block per token
                token, position = model.embed_prompt(ids[row, place][None, None]), torch.tensor([[place]])
                out[row, place] = logits(model.vlm(token, position, past=past))[0, 0]
                past = model.vlm.cache(token, position, past=past)
        return numpy(out)

    def outputs(name: str) -> np.ndarray:
        width = model.config.vlm.width
        return {
            "image_features": lambda: numpy(model.embed_images(images[:, None])),
            "vision_last_hidden": lambda: numpy(model.vision(images)),
            "prefix_embeddings": lambda: prefix(lambda tokens, positions: tokens, width),
            "hidden_last_prefix": lambda: prefix(model.vlm, width),
            "logits_prefix": lambda: prefix(lambda *x: logits(model.vlm(*x)), model.config.vocab_size),
            "logits_suffix": suffix_logits,
        }[name]()

    return outputs


def verify_data_case(case: Case) -> Iterator[Difference]:
    """Cases without a network: resizing, normalisation, prompts, the SimplerEnv adapter."""
    kind = case.info["case"]
    if kind == "prompts":
        wrong = verify_data.prompts_case(case.folder)
        for message in wrong:
            print(message, file=sys.stderr)
        yield Difference(case.name, "texts and tokens", float(len(wrong)), float(len(wrong)), "all equal", not wrong)
        return
    outputs: Arrays
    if kind == "simpler_env_adapter":
        outputs = verify_simpler.outputs(case.load("inputs.npz"))
    else:
        outputs = {"normalize": verify_data.normalize_case, "resize": verify_data.resize_case}[kind](case.folder)
    for name, theirs in case.load("expected.npz").items():
        if name not in outputs:
            raise SystemExit(f"{case.name}: expected array {name} is not known")
        yield compare(case.name, name, outputs[name], theirs, *data_tolerance(kind, name, theirs))


def data_tolerance(kind: str, name: str, theirs: np.ndarray) -> tuple[float, bool]:
    """Pictures of Pillow bit for bit, of OpenCV and JAX one level, of torch 1e-5; numbers 1e-6."""
    if kind == "resize":
        return (0.0 if name.startswith("pad") else 1.0 if theirs.dtype == np.uint8 else 1e-5), False
    return 1e-6, kind != "simpler_env_adapter"


def numpy(tensor: Tensor) -> np.ndarray:
    """On the host; bfloat16 as float32."""
    return (tensor.float() if tensor.dtype is torch.bfloat16 else tensor).numpy()


OUTPUTS: dict[str, Callable[[Case, torch.dtype], Iterator[tuple[str, Outputs]]]] = {
    "openpi_pi0": openpi_outputs,
    "openpi_pi05": openpi_outputs,
    "openpi_jax": openpi_outputs,
    "lerobot_pi0": lerobot_outputs,
    "lerobot_pi05": lerobot_outputs,
    "open_pi_zero": open_pi_zero_outputs,
    "paligemma": paligemma_outputs,
}

if __name__ == "__main__":
    sys.exit(main())
