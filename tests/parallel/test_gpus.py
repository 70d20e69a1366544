"""Which GPUs can be compiled for; what is refused never reaches the compiler."""

import os
import re
import types

import pytest

from lightningdit_jax.parallel import gpus
from lightningdit_jax.parallel.chips import GPUS, chip_name
from lightningdit_jax.parallel.gpus import PROCESSORS, gpu_count, target_config
from lightningdit_jax.parallel.links import LINKS
from lightningdit_jax.parallel.topology import check_topology, open_slice

SKIPPED = "JAX_SKIP_CUDA_CONSTRAINTS_CHECK"


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """As a fresh process has it, and as it was afterwards."""
    monkeypatch.setenv(SKIPPED, "")
    monkeypatch.delenv(SKIPPED)


@pytest.mark.parametrize(
    ("topology", "number"),
    [
        ("h100:1", 1),
        ("h200:8", 8),
        ("a100:4", 4),
        ("h100:16", 16),
        ("h100:1024", 1024),
        ("l4:2", 2),
    ],
)
def test_gpus_that_exist(topology, number):
    assert gpu_count(topology) == (topology.partition(":")[0], number)


@pytest.mark.parametrize(
    ("topology", "message"),
    [
        ("h100:3", "h100 comes in 1, 2, 4 and 8 of a node, or whole .*; the nearest is h100:4"),
        ("h100:6", "the nearest is h100:8"),
        ("h100:0", "the nearest is h100:1"),
        ("h100:12", "the nearest is h100:16"),
        ("h100:20", "the nearest is h100:24"),
        ("h100:9999", "up to 1,024; the nearest is h100:1024"),
        ("l4:16", "l4 comes in 1, 2, 4 and 8 of a node; the nearest is l4:8"),
        (
            "h100",
            "h100 is no number of GPUs; expected a card and how many, such as h100:1 or h100:8",
        ),
        ("a100:2x4", "is no number of GPUs"),
        ("a100:-1", "is no number of GPUs"),
        ("a100:٨", "is no number of GPUs"),
        ("a100:99999999", "is no number of GPUs"),
        ("h1000:8", "unknown chip in --topology 'h1000'; did you mean 'h100'"),
        ("H100:8", "unknown chip in --topology 'H100'"),
    ],
)
def test_gpus_that_do_not_exist_are_refused_in_one_line(topology, message, monkeypatch):
    monkeypatch.setattr(gpus, "open_gpus", None)
    for refusing in (check_topology, open_slice):
        with pytest.raises(ValueError, match=message) as refused:
            refusing(topology)
        assert "\n" not in str(refused.value)


def test_every_card_is_known_whole():
    assert GPUS.keys() == PROCESSORS.keys() and GPUS.keys() <= LINKS.keys()
    for name, processor in PROCESSORS.items():
        assert chip_name(types.SimpleNamespace(device_kind=processor.kind)) == name


def test_what_the_compiler_is_told_of_an_h100():
    """The numbers that openxla/xla has for it, in the same words."""
    told = dict(re.findall(r"(\w+): (\S+)", target_config("h100")))
    assert (
        told
        | {
            "core_count": "132",
            "shared_memory_per_core": "233472",
            "shared_memory_per_block_optin": "232448",
            "l2_cache_size": "52428800",
            "device_memory_size": "84942979072",
            "clock_rate_ghz": "1.98",
            "fpus_per_core": "128",
            "threads_per_core_limit": "2048",
            "feature_extension": "ACCELERATED_FEATURES",
        }
        == told
    )
    assert float(told["memory_bandwidth"]) == pytest.approx(3352320000000, rel=1e-3)


def test_a_missing_plugin_is_one_line(monkeypatch):
    def missing(*args, **options):
        raise NotImplementedError("topology not implemented for cuda")

    monkeypatch.setattr("jax.experimental.topologies.get_topology_desc", missing)
    with pytest.raises(ImportError, match=r"pip install -c constraints.txt -e '.\[cuda\]'") as said:
        open_slice("h100:8")
    assert "\n" not in str(said.value)


def test_the_plugin_is_not_asked_for_a_driver():
    check_topology("v5e:4x4")
    assert SKIPPED not in os.environ
    check_topology("h100:1")
    assert os.environ[SKIPPED] == "1"
