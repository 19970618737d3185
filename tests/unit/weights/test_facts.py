"""What is said of a policy: put together, contradictions named with both sides, everything unknown listed at once."""

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from pizero.command.import_checkpoint import Import
from pizero.data.stats import DatasetStats, Stats
from pizero.robot.droid import DROID
from pizero.robot.libero import LIBERO
from pizero.weights.facts import Facts, flag, merge, require
from pizero.weights.importer import DATA_NEEDS, fit_robot, own_dimensions


def stats(mean: float = 0.0, width: int = 2) -> DatasetStats:
    one = Stats(np.full(width, mean), np.ones(width), None, None, np.zeros(width), None, 7)
    return DatasetStats(one, one)


def test_what_one_says_stands_and_equal_facts_of_two_are_no_contradiction():
    facts = merge({"a": Facts(horizon=3, stats=stats()), "b": Facts(horizon=3, stats=stats(), delta_actions=())})
    assert (facts.horizon, facts.delta_actions, facts.resize) == (3, (), None)
    assert facts.stats is not None
    assert facts.stats.to_json() == stats().to_json()


@pytest.mark.parametrize(
    ("one", "other", "words"),
    [
        (Facts(horizon=3), Facts(horizon=4), "--horizon: the file says 3, the user says 4; leave one of them out"),
        (Facts(delta_actions=()), Facts(delta_actions=("x",)), r"--delta-actions: the file says \(\), the user says"),
        (Facts(robot=DROID), Facts(robot=LIBERO), "--robot: the file says robot droid, the user says robot libero"),
        (Facts(stats=stats()), Facts(stats=stats(1.0)), "--stats: the file says other statistics"),
        (Facts(lora_rslora=False), Facts(lora_rslora=True), "--lora-rslora: the file says False, the user says True"),
        (Facts(fresh_expert=0), Facts(fresh_expert=1), "--fresh-expert: the file says 0, the user says 1"),
    ],
)
def test_a_contradiction_names_the_flag_and_both_sides(one, other, words):
    with pytest.raises(ValueError, match=f"^{words}"):
        merge({"the file": one, "nobody": Facts(), "the user": other})


def test_everything_that_nobody_says_is_listed_with_its_reason():
    names = {"horizon": "why one", "delta_actions": "why two", "fresh_expert": "why three", "raw_state": "why four"}
    with pytest.raises(ValueError) as error:
        require(Facts(raw_state=()), names, "here")
    assert str(error.value) == (
        "here does not say all that its policy needs; "
        "give --horizon (why one), --delta-actions (why two), --fresh-expert (why three)"
    )
    require(Facts(horizon=1, delta_actions=(), fresh_expert=0, raw_state=()), names, "here")


def test_every_fact_that_can_be_asked_for_has_its_flag():
    flags = {flag(field.name) for field in fields(Import)}
    asked = {"horizon", "vision_heads", "action_rope_base", "time_max_period", "lora_alpha", "base", "fresh_expert"}
    assert {flag(name) for name in asked | set(DATA_NEEDS)} <= flags
    assert asked | set(DATA_NEEDS) <= {field.name for field in fields(Facts)}


def test_a_robot_of_the_same_counts_takes_the_place_of_a_neutral_one():
    actions = tuple(f"action_{i}" for i in range(7))
    neutral = replace(LIBERO, name="neutral", actions=actions)
    said = Facts(robot=neutral, delta_actions=("action_0", "action_6"))
    fitted = fit_robot(said, LIBERO)
    assert fitted.robot == LIBERO
    assert fitted.delta_actions == (LIBERO.actions[0], LIBERO.actions[6])
    assert fit_robot(said, None) is said
    assert fit_robot(Facts(), LIBERO) == Facts()


@pytest.mark.parametrize("what", ["cameras", "state"])
def test_a_robot_of_other_counts_is_refused(what):
    other = replace(LIBERO, **{what: (*getattr(LIBERO, what), "more")})
    count = len(getattr(LIBERO, what))
    with pytest.raises(ValueError, match=f"--robot: libero has {count} {what} .*, the checkpoint has {count + 1}: "):
        fit_robot(Facts(robot=other), LIBERO)


def test_padding_of_statistics_is_cut_off_and_too_few_are_refused():
    width = len(LIBERO.state)
    own = own_dimensions(stats(width=32), LIBERO)
    assert (len(own.state.mean), len(own.actions.mean)) == (width, len(LIBERO.actions))
    assert own.state.q01 is not None
    assert len(own.state.q01) == width
    assert (own.state.q99, own.state.count) == (None, 7)
    with pytest.raises(ValueError, match=rf"--stats has {width - 1} dimensions, the state of libero has {width}"):
        own_dimensions(stats(width=width - 1), LIBERO)


def test_without_normalisation_statistics_are_those_of_nothing():
    own = own_dimensions(None, LIBERO)
    assert own.actions.mean.tolist() == [0.0] * 7
    assert own.actions.std.tolist() == [1.0] * 7


def test_paths_are_facts_too():
    assert merge({"a": Facts(tokenizer=Path("x")), "b": Facts(tokenizer=Path("x"))}).tokenizer == Path("x")
