"""Which weights a name, a flag and a decay mean."""

import pytest

from lightningdit_jax.averages import average_decays, is_average, weights_item

ITEMS = {"params", "ema", "ema_0.999", "opt_state", "meta"}


def test_averages_of_a_run_have_names_that_say_their_decay():
    assert average_decays(0.9999, (0.999, 0.5)) == {
        "ema": 0.9999,
        "ema_0.999": 0.999,
        "ema_0.5": 0.5,
    }
    assert average_decays(0.0, ()) == {}
    assert {item for item in ITEMS if is_average(item)} == {"ema", "ema_0.999"}


@pytest.mark.parametrize(
    ("items", "use_ema", "ema_decay", "wanted"),
    [
        (ITEMS, True, 0.0, "ema"),
        (ITEMS, True, 0.999, "ema_0.999"),
        (ITEMS, False, 0.999, "params"),
        ({"params", "ema_0.999"}, True, 0.0, "params"),
    ],
)
def test_weights_that_are_meant(items, use_ema, ema_decay, wanted):
    assert weights_item(items, use_ema, ema_decay, "run") == wanted


def test_an_average_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(ValueError, match=r"^run has no average 'ema_0\.99'; there are: ema, ema_"):
        weights_item(ITEMS, True, 0.99, "run")
    with pytest.raises(ValueError, match=r"there are: none; .* and 0 takes 'params'$"):
        weights_item({"params"}, True, 0.99, "run")
