"""Which way a step is run on which devices."""

import dataclasses
import importlib
import itertools
import json
import pathlib
import re

import jax
import pytest

from lightningdit_jax import config as configs
from lightningdit_jax.planning.hardware import Hardware
from lightningdit_jax.planning.plan import MARGIN, describe, line
from lightningdit_jax.training.plan import next_plans, training_plans
from tests.planning.devices import gpus, tpus

AUTO = {"data": "auto", "fsdp": "auto", "tensor": "auto", "dcn_data": "auto"}
V5E_16 = tpus("TPU v5 lite", 4, 4)


def config_of(name, **sections):
    """As its file says, all of the plan open but what is given."""
    published = configs.from_dict(
        importlib.import_module(f"lightningdit_jax.configs.{name}").get_config()
    )
    assert dataclasses.asdict(published.mesh) == AUTO
    return published.changed(**sections)


def plans_on(devices, config):
    hardware = dataclasses.replace(Hardware.of(devices), num_processes=1)
    return hardware, training_plans(config, hardware)[0]


H100S = gpus("NVIDIA H100 80GB HBM3", 8, 72)


@pytest.mark.parametrize(
    ("name", "devices"),
    [
        ("dit_b", tpus("TPU v5 lite", 1, 1)),
        *itertools.product(
            ("dit_b", "dit_xl", "dit_1p6b"),
            (V5E_16, tpus("TPU v5 lite", 16, 16), tpus("TPU v4", 2, 2, 2), H100S),
        ),
        ("vavae_f16d32", V5E_16),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{len(value)}x{value[0].device_kind}",
)
def test_the_cards_command_has_a_plan_that_fits(name, devices):
    config = config_of(name)
    hardware, found = plans_on(devices, config)
    best = found[0]
    assert best.mesh["data"] * best.mesh["fsdp"] * best.mesh["tensor"] == len(devices)
    assert config.train.batch_size % (len(devices) * best.accumulate_steps) == 0
    assert all(plan.peak_bytes <= MARGIN * hardware.memory_bytes for plan in found)
    assert best.seconds == min(plan.seconds for plan in found)
    planned = best.applied(config)
    assert "auto" not in (*dataclasses.astuple(planned.mesh), planned.compute.remat)
    assert planned.number("train.accumulate_steps") == best.accumulate_steps


def test_a_generator_and_its_tokenizer_are_predicted_within_a_twentieth_of_their_programs():
    """As --mode=compile says (docs/planning.md), without a checkpoint of any network."""
    _, found = plans_on(V5E_16, config_of("dit_xl_repae"))
    assert (found[0].mesh["fsdp"], found[0].remat) == (16, "dots")
    expected = {plan.remat: plan.peak_bytes for plan in found if plan.mesh["fsdp"] == 16}
    assert expected["dots"] == pytest.approx(15_550_044_160, rel=0.05)
    assert expected["block"] == pytest.approx(10_966_817_280, rel=0.05)


def test_what_is_set_is_kept_and_the_rest_fitted_around_it():
    sixteen = config_of("dit_xl", mesh={"fsdp": 4})
    assert {plan.mesh["fsdp"] for plan in plans_on(V5E_16, sixteen)[1]} == {4}
    left = config_of("dit_xl", mesh={"data": -1, "fsdp": 8})
    assert {plan.mesh["data"] for plan in plans_on(V5E_16, left)[1]} == {2}
    block = config_of("dit_xl", compute={"remat": "block"})
    assert {plan.remat for plan in plans_on(V5E_16, block)[1]} == {"block"}
    parts = config_of("dit_xl", train={"accumulate_steps": 8})
    assert {plan.accumulate_steps for plan in plans_on(V5E_16, parts)[1]} == {8}


def test_where_all_is_set_there_is_one_plan_whether_it_fits_or_not():
    all_set = config_of(
        "dit_xl",
        mesh={"data": -1, "fsdp": 1, "tensor": 1, "dcn_data": 1},
        compute={"remat": "none"},
        train={"accumulate_steps": 1},
    )
    hardware, (plan,) = plans_on(V5E_16, all_set)
    assert plan.peak_bytes > hardware.memory_bytes
    assert line(plan, hardware, [plan]).endswith("what the config leaves open")


def test_less_memory_takes_a_smaller_plan():
    config = config_of("dit_xl")
    sizes = [12, 16, 24, 80]
    chosen = [plans_on(gpus("a card", 8, size), config)[1][0] for size in sizes]
    known = [plans_on(gpus("NVIDIA H100 80GB HBM3", 8, size), config)[1][0] for size in sizes]
    assert all(a.seconds >= b.seconds for a, b in itertools.pairwise(known))
    assert all(plan.peak_bytes <= MARGIN * 12 * 2**30 for plan in chosen)  # nobody knows the card


def test_devices_that_nobody_knows_get_the_smallest_plan_and_a_line():
    hardware, found = plans_on(gpus("Some Card", 8, 40), config_of("dit_xl"))
    assert found[0].peak_bytes == min(plan.peak_bytes for plan in found)
    assert "the smallest, as nobody measured such devices" in line(found[0], hardware, found)
    silent = [dataclasses.replace(device, bytes_limit=0) for device in hardware.devices]
    assert Hardware.of(silent).memory_bytes == 8 * 2**30


@pytest.mark.parametrize(
    ("devices", "sections", "message"),
    [
        (V5E_16, {"mesh": {"fsdp": 3}}, r"mesh\.data=-1, mesh\.fsdp=3.*16 devices cannot be"),
        (V5E_16, {"mesh": {"data": 4, "fsdp": 8}}, "the product is 32, but there are 16 devices"),
        (V5E_16, {"train": {"batch_size": 100}}, "batch size 100 cannot .* 96 and 112"),
        (V5E_16, {"train": {"accumulate_steps": 3}}, "of 3 accumulated parts each.* 1008 and 1056"),
        (V5E_16[:1], {}, r"no plan fits 1 x TPU v5 lite: .* GiB on each.*--config\.mesh\.data=1"),
        (V5E_16, {"mesh": {"fsdp": 1}, "compute": {"remat": "dots"}}, "no plan fits 16 x"),
    ],
)
def test_what_no_plan_can_do_is_one_line(devices, sections, message):
    with pytest.raises(ValueError, match=message) as caught:
        plans_on(devices, config_of("dit_xl", **sections))
    assert "\n" not in str(caught.value)


def test_a_kernel_that_a_mesh_does_not_cut_is_named_where_that_mesh_is_set():
    with pytest.raises(ValueError, match=r"cannot be divided by mesh\.fsdp=256"):
        plans_on(tpus("TPU v5 lite", 16, 16), config_of("dit_xl", mesh={"fsdp": 256}))
    assert all(
        plan.mesh["fsdp"] <= 16
        for plan in plans_on(tpus("TPU v5 lite", 16, 16), config_of("dit_xl"))[1]
    )


def test_a_width_that_fills_no_tile_still_has_a_plan():
    narrow = {"variant": "XL/1", "hidden_size": 12, "num_heads": 1, "depth": 2}
    _, found = plans_on(V5E_16, config_of("dit_xl", model=narrow))
    assert {plan.mesh["fsdp"] for plan in found} == {1}


def test_fsdp_stays_within_a_slice_and_data_spans_them():
    two = tpus("TPU v5 lite", 4, 4, slices=2)
    _, found = plans_on(two, config_of("dit_xl", train={"batch_size": 2048}))
    assert {plan.mesh["dcn_data"] for plan in found} == {2}
    assert all(plan.mesh["data"] % 2 == 0 and plan.mesh["fsdp"] <= 16 for plan in found)
    with pytest.raises(ValueError, match=r"has 2 slices or nodes, .* set a smaller config.mesh.fs"):
        plans_on(two, config_of("dit_xl", mesh={"fsdp": 32}))
    _, nodes = plans_on(gpus("NVIDIA H100 80GB HBM3", 16, 72, nodes=2), config_of("dit_xl"))
    assert {plan.mesh["dcn_data"] for plan in nodes} == {2}


def test_each_next_plan_is_smaller_and_the_last_is_an_error():
    _, left = plans_on(V5E_16, config_of("dit_xl"))
    peaks = []
    with pytest.raises(ValueError, match="no smaller plan is left: too much; take more devices"):
        while True:
            peaks.append(left[0].peak_bytes)
            left = next_plans("retry", left[0], left, "too much")
    assert len(peaks) > 3
    assert all(after <= 0.9 * before for before, after in itertools.pairwise(peaks))


def test_stop_names_the_next_plan_as_arguments():
    _, found = plans_on(V5E_16, config_of("dit_xl"))
    with pytest.raises(ValueError, match="out of memory: too much; what may fit is") as caught:
        next_plans("stop", found[0], found, "too much")
    flags = dict(re.findall(r"--config\.([\w.]+)=(\S+)", str(caught.value)))
    expected = next_plans("retry", found[0], found, "too much")[0]
    assert flags["compute.remat"] == expected.remat
    assert flags["train.accumulate_steps"] == str(expected.accumulate_steps)
    assert {f"mesh.{axis}": str(size) for axis, size in expected.mesh.items()}.items() <= (
        flags.items()
    )


def test_the_line_says_what_why_and_how_much():
    hardware, found = plans_on(V5E_16, config_of("dit_xl"))
    said = line(found[0], hardware, found)
    assert said.startswith(f"plan for 16 x TPU v5 lite: {describe(found[0])}; ")
    peak = f"{found[0].peak_bytes / 2**30:.1f} of {hardware.memory_bytes / 2**30:.1f} GiB"
    assert peak in said and f"the fastest expected of {len(found)} that fit" in said
    assert "\n" not in said


def test_a_cpu_keeps_the_weights_whole_and_all_activations():
    hardware = Hardware.of(jax.devices()[:8])
    config = config_of("digits_dit")
    plan = training_plans(config, hardware)[0][0]
    assert plan.mesh == {"data": 8, "fsdp": 1, "tensor": 1, "dcn_data": 1}
    assert (plan.remat, plan.accumulate_steps) == ("none", 1)


POINTS = pathlib.Path(__file__).parents[2] / "benchmarks" / "memory_points.jsonl"


def test_memory_is_predicted_within_a_tenth_of_programs_it_was_not_fitted_to():
    from benchmarks.memory_model import predicted

    points = [json.loads(row) for row in POINTS.read_text().splitlines()]
    unfitted = [point for point in points if not point["fitted"]]
    assert len(unfitted) >= 30
    off = [predicted(point) / point["peak_bytes"] - 1 for point in unfitted]
    assert max(map(abs, off)) < 0.1
