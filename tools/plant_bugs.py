"""Plants one bug at a time into a copy of the package and tells which tests see it: python tools/plant_bugs.py [WORD].

A numerics test counts only when it has been seen to fail. Prints a Markdown table; exits with 1 when a bug survives.
WORD: plant only the bugs whose name contains it.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
TESTS = (
    "tests/unit/model",
    "tests/unit/test_flow.py",
    "tests/property/test_block_rule.py",
    "tests/parity/test_openpi_golden.py",
    "tests/parity/test_paligemma.py",
    "tests/parity/test_pi0_transformers.py",
)
FLOW, GEMMA, HEADS, PI0, SIGLIP = "flow.py", "model/gemma.py", "model/heads.py", "model/pi0.py", "model/siglip.py"
TYPES, PALIGEMMA = "types.py", "weights/paligemma.py"
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


class Sighting(NamedTuple):
    """What the tests say of a bug."""

    tests: list[str]
    crashes: list[str]
    seconds: float


STATE_IN_PREFILL = """        state = self.heads.embed_state(observation.state)
        return self.action.cache(state, prefix.next_positions(1), past=prefix)
"""
RUN_ACTIONS = """        positions = cache.next_positions(tokens.shape[1])
        return self.heads.velocity(self.action(tokens, positions, past=cache))
"""
BUGS = [
    Bug("Gemma: GELU by erf", [Edit(GEMMA, 'F.gelu(gate, approximate="tanh")', "F.gelu(gate)")]),
    Bug("SigLIP: GELU by erf", [Edit(SIGLIP, '(x)), approximate="tanh")', "(x)))")]),
    Bug("text not scaled by sqrt(width)", [Edit(PI0, " * math.sqrt(self.config.vlm.width)", "")]),
    Bug(
        "images scaled like text",
        [Edit(PI0, "self.vision(images.flatten(0, 1)))", "self.vision(images.flatten(0, 1))).mul(8)")],
    ),
    Bug("state one position late", [Edit(PI0, "prefix.next_positions(1)", "prefix.next_positions(1) + 1")]),
    Bug(
        "actions one position late",
        [Edit(PI0, "cache.next_positions(tokens.shape[1])", "cache.next_positions(tokens.shape[1]) + 1")],
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
            Edit(
                PI0,
                STATE_IN_PREFILL,
                "        self.leak = self.heads.embed_state(observation.state)\n        return prefix\n",
            ),
            Edit(
                PI0,
                RUN_ACTIONS,
                "        state = self.leak.repeat_interleave(len(tokens) // len(self.leak), 0)\n"
                "        tokens = torch.cat([state, tokens], dim=1)\n"
                + RUN_ACTIONS.replace("past=cache)", "past=cache)[:, 1:]"),
            ),
        ],
    ),
    Bug(
        "the prefix sees the state",
        [
            Edit(
                PI0,
                STATE_IN_PREFILL,
                "        state = self.heads.embed_state(observation.state)\n"
                "        own = self.action.cache(state, prefix.next_positions(1), past=prefix)\n"
                "        own = Cache([k[:, :, -1:] for k in own.keys], [v[:, :, -1:] for v in own.values], None)\n"
                "        return self.vlm.cache(tokens, positions, mask, past=own)\n",
            )
        ],
    ),
    Bug(
        "the prefix sees the actions",
        [
            Edit(PI0, STATE_IN_PREFILL, "        self.leak = tokens, positions, mask\n" + STATE_IN_PREFILL),
            Edit(
                PI0,
                RUN_ACTIONS,
                "        draws = len(tokens) // len(self.leak[0])\n"
                "        prefix = [None if x is None else x.repeat_interleave(draws, 0) for x in self.leak]\n"
                "        own = self.action.cache(tokens, cache.next_positions(tokens.shape[1]))\n"
                "        leaked = self.vlm.cache(*prefix, past=own)\n"
                "        n, p = tokens.shape[1], prefix[0].shape[1]\n"
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
                "x, _, _ = layer(x, table, None if past is None else (past.keys[i], past.values[i])",
                "x, _, _ = layer(x, table, None if past is None else (past.keys[-1 - i], past.values[-1 - i])",
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
    Bug("RMSNorm scales by w instead of 1 + w", [Edit(GEMMA, "(1 + self.weight.float())", "self.weight.float()")]),
    Bug(
        "rotary embedding: sine and cosine swapped",
        [Edit(GEMMA, "angle.cos(), angle.sin()", "angle.sin(), angle.cos()")],
    ),
    Bug(
        "time embedding: sine and cosine swapped",
        [Edit(HEADS, "[angle.sin(), angle.cos()]", "[angle.cos(), angle.sin()]")],
    ),
    Bug(
        "time before actions in the MLP",
        [Edit(HEADS, "[actions, time[:, None].expand_as(actions)]", "[time[:, None].expand_as(actions), actions]")],
    ),
    Bug("time one Euler step late", [Edit(FLOW, "step / num_steps", "(step + 1) / num_steps")]),
    Bug("path from data to noise", [Edit(FLOW, "    t = t[:, None, None]\n", "    t = 1 - t[:, None, None]\n")]),
    Bug(
        "target velocity with the wrong sign",
        [Edit(FLOW, "actions - (1 - sigma_min) * noise", "(1 - sigma_min) * noise - actions")],
    ),
    Bug(
        "loss mask ignored",
        [Edit(FLOW, "torch.where(mask, squared, 0).sum() / mask.sum().clamp(min=1)", "squared.mean()")],
    ),
    Bug("time distribution reversed", [Edit(FLOW, "MAX_TIME * (1 - u ** (1 / 1.5))", "MAX_TIME * u ** (1 / 1.5)")]),
    Bug(
        "noise in padded action dimensions",
        [Edit(PI0, "noise = noise * mask.any(dim=1, keepdim=True)", "noise = noise * 1")],
    ),
    Bug(
        "padded action dimensions sampled",
        [Edit(PI0, "self.velocity(cache, x, t) * keep", "self.velocity(cache, x, t)")],
    ),
    Bug("sigma_min forgotten on the path", [Edit(FLOW, "(1 - (1 - sigma_min) * t) * noise", "(1 - t) * noise")]),
    Bug(
        "Euler in the dtype of the velocity",
        [
            Edit(FLOW, "x = noise.float()", "x = noise"),
            Edit(FLOW, "velocity(x, t).float() / num_steps", "velocity(x, t) / num_steps"),
        ],
    ),
    Bug(
        "trim looks at the first row alone",
        [Edit(TYPES, "tokens = prompt_mask.any(0)", "tokens = prompt_mask[0]")],
    ),
    Bug(
        "PaliGemma: last rows of the vocabulary",
        [Edit(PALIGEMMA, "[: target[name].shape[0]]", "[-target[name].shape[0] :]")],
    ),
    Bug(
        "PaliGemma: lm_head preferred to embed_tokens",
        [
            Edit(
                PALIGEMMA,
                '"embed_tokens.weight" not in source and "lm_head.weight" in source',
                '"lm_head.weight" in source',
            )
        ],
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


def run_tests(home: Path) -> Sighting:
    """Run the numerics tests against the package in `home`."""
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
    start = time.monotonic()
    options = [
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "one_failure_is_enough",
        f"--junitxml={report}",
        "--hypothesis-seed=0",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *TESTS], cwd=ROOT, env=env, capture_output=True, text=True
    )
    if done.returncode not in (0, 1):  # 1: tests failed; more: they did not run
        sys.exit(f"the tests did not run:\n{done.stdout}\n{done.stderr}")
    failed, crashes = [], []
    for case in ElementTree.parse(report).iter("testcase"):
        name = f"{case.get('classname', '').split('.')[-1]}::{case.get('name')}"
        for outcome in (*case.findall("failure"), *case.findall("error")):
            (failed if "AssertionError" in (outcome.text or "") else crashes).append(name)
    return Sighting(failed, crashes, time.monotonic() - start)


def try_bug(bug: Bug) -> Sighting:
    """The tests against a fresh copy of the package with one bug in it."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        shutil.copytree(ROOT / "src" / "pizero", home / "pizero", ignore=shutil.ignore_patterns("__pycache__"))
        (home / "one_failure_is_enough.py").write_text(PLUGIN)
        plant(bug, home / "pizero")
        return run_tests(home)


def main() -> int:
    """0 when every bug was seen, 1 when one was not."""
    bugs = [bug for bug in BUGS if all(word in bug.name for word in sys.argv[1:])]
    if not bugs:
        sys.exit(f"no bug is called like that; there are: {', '.join(bug.name for bug in BUGS)}")
    print("running the tests without a bug", file=sys.stderr)
    clean = try_bug(Bug("none", []))
    if clean.tests or clean.crashes:
        sys.exit(f"tests fail without any bug: {', '.join(clean.tests + clean.crashes)}")
    print("| bug | tests that see it | for example |\n|---|---|---|")
    survived = 0
    for bug in bugs:
        sighting = try_bug(bug)
        survived += not sighting.tests
        count = len(sighting.tests) or "**none**"
        example = sighting.tests[0] if sighting.tests else f"crashes: {', '.join(sighting.crashes) or 'none'}"
        print(f"| {bug.name} | {count} | `{example}` |", flush=True)
    print(f"{len(bugs) - survived} of {len(bugs)} bugs seen; the tests take {clean.seconds:.0f} s", file=sys.stderr)
    return int(survived > 0)


if __name__ == "__main__":
    sys.exit(main())
