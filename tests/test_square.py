"""What has two sides is refused with the reason; tests/test_main.py has the command line."""

import numpy as np
import pytest

from lightningdit_jax import config
from lightningdit_jax.convert.convert import infer_config
from lightningdit_jax.convert.keymap import ConversionError
from lightningdit_jax.data.latents import LatentShards, compute_stats, write_shard
from lightningdit_jax.square import SIDES
from tests import golden, tiny

REASON = "latents and images are square here"


@pytest.mark.parametrize("key", SIDES)
@pytest.mark.parametrize("value", [(16, 24), [16, 24], "16x24"])
def test_values_of_a_config(key, value):
    values = tiny.config("digits_dit").to_dict()
    section, _, name = key.partition(".")
    values[section][name] = value
    with pytest.raises(ValueError) as caught:
        config.from_dict(values)
    assert str(caught.value).startswith(f"config.{key} is {value}; expected one whole number: ")
    assert REASON in str(caught.value)


def test_latents(tmp_path):
    rows = np.zeros((2, 3, 16, 24, 8), np.float32)
    write_shard(tmp_path, 0, 0, *rows, np.zeros(3, np.int64))
    for side in (16, 24):
        with pytest.raises(ValueError, match=rf"holds latents of 16x24, but {REASON}.*extract"):
            LatentShards(tmp_path).check(in_channels=8, input_size=side, num_classes=1)


def test_a_state_dict():
    weights = dict(golden.load_weights("lightningdit_default"))
    _, tokens, dim = weights["pos_embed"].shape
    oblong = np.zeros((1, tokens // 2 * 3, dim), np.float32)
    with pytest.raises(
        ConversionError, match=rf"pos_embed .*expected a square of tokens: {REASON}"
    ):
        infer_config("lightningdit", weights | {"pos_embed": oblong})


def test_one_number_has_no_deviation(tmp_path):
    row = np.ones((1, 1, 1, 8), np.float32)
    write_shard(tmp_path, 0, 0, row, row, np.zeros(1, np.int64))
    with pytest.raises(ValueError, match=r"holds one latent of 1x1, .* extract more images"):
        compute_stats(LatentShards(tmp_path))
