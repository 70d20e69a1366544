"""What `train` refuses before it begins."""

import pytest

from lightningdit_jax.training.run import train
from tests import tiny


def test_evaluating_without_an_evaluator_is_refused(tmp_path):
    config = tiny.config("digits_vavae", train__evaluate_every_steps=10)
    with pytest.raises(ValueError, match=r"is 10, but there is nothing that evaluates a vavae"):
        train(config, str(tmp_path))
    assert not any(tmp_path.iterdir())
