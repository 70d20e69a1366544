"""Attention's kernel, and one that is wrong, before they are taken."""

import jax
from jax.experimental.pallas import tpu as pltpu

from lightningdit_jax.assembly import kernel_check
from lightningdit_jax.assembly.kernel_check import kernel_fault
from tests import tiny


def test_a_wrong_kernel_is_found(monkeypatch):
    architecture, device = tiny.dit_config(hidden_size=128), jax.devices()[0]
    assert kernel_fault(device, architecture, 2).startswith("it does not run: ")  # here is no TPU
    with pltpu.force_tpu_interpret_mode():
        kernel_fault.cache_clear()
        assert kernel_fault(device, architecture, 2) == ""
        right = kernel_check.pallas_attention

        def wrong(q, k, v, bias, *others):
            return right(k, q, v, bias, *others)

        monkeypatch.setattr(kernel_check, "pallas_attention", wrong)
        kernel_fault.cache_clear()
        assert kernel_fault(device, architecture, 2).startswith("it differs from XLA's by 1")
