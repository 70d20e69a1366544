"""Other programs' names lead to our keys, and to none that is not there."""

import typing

import pytest

from lightningdit_jax.assembly.command_line import canonical
from lightningdit_jax.config import Config, from_dict
from lightningdit_jax.config_fields import key_types
from lightningdit_jax.errors import unknown_name
from lightningdit_jax.flow.diffusions import DIFFUSIONS
from lightningdit_jax.flow.solvers import SOLVERS
from lightningdit_jax.foreign_names import RELEASE_RENAMED, foreign_keys, foreign_values
from lightningdit_jax.models.lightningdit_config import VARIANTS
from lightningdit_jax.training.optimizer import OPTIMIZERS
from tests import tiny

KNOWN = key_types(Config)


def words():
    """Every value that is a word, of any key."""
    found = {*SOLVERS, *DIFFUSIONS, *OPTIMIZERS, "constant", "linear", "cosine", "trapezoid"}
    found |= {"mean", "tweedie", "none"}  # of sample.last_step
    for hint in KNOWN.values():
        if typing.get_origin(hint) is typing.Literal:
            found |= set(typing.get_args(hint))
    return found


def test_every_hint_is_a_key_that_there_is():
    assert set(foreign_keys().values()) | set(RELEASE_RENAMED.values()) <= KNOWN.keys()
    assert not foreign_keys().keys() & KNOWN.keys()


def test_every_hint_of_a_value_is_one():
    assert set(foreign_values().values()) <= words()
    assert not foreign_values().keys() & words()


@pytest.mark.parametrize(
    ("given", "ours"),
    [
        ("sample.num_sampling_steps", "sample.num_steps"),  # and not sample.num_samples
        ("optimizer.lr", "optimizer.learning_rate"),  # and not optimizer.eps
        ("transport.use_lognorm", "flow.timesteps"),
        ("train.max_steps", "train.num_steps"),
        ("sample.num_inference_steps", "sample.num_steps"),
        ("guidance_scale", "sample.cfg_scale"),
        ("proj_coeff", "repa.weight"),
    ],
)
def test_the_command_line_names_our_key(given, ours):
    with pytest.raises(ValueError, match=f"'{given}'.* name; here it is '{ours}'"):
        canonical([f"--config.{given}=3"])


def test_what_is_only_misspelled_gets_the_nearest_name():
    assert unknown_name("config key", "sample.num_stepz", tuple(KNOWN)).endswith(
        "did you mean 'sample.num_steps'?"
    )
    # A foreign name whose key is not among the known ones is no hint.
    assert "here it is" not in unknown_name("mode", "lr", ("train", "sample"))


def test_values_and_variants():
    with pytest.raises(ValueError, match="'GVP': the release's name; here it is 'gvp'"):
        values = tiny.config("digits_dit").to_dict()
        values["flow"]["path"] = "GVP"
        from_dict(values)
    message = unknown_name("variant", "LightningDiT-XL/1", tuple(VARIANTS))
    assert "the release's name; here it is 'XL/1'" in message
