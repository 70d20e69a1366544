"""What a plan knows of devices, and what arrays take on them."""

import dataclasses
import math
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from lightningdit_jax.config import MeshConfig
from lightningdit_jax.models.lightningdit_config import variant_config
from lightningdit_jax.parallel.links import LINKS, Network
from lightningdit_jax.parallel.mesh import abstract_mesh, make_mesh
from lightningdit_jax.planning.hardware import Hardware
from lightningdit_jax.planning.memory import held_bytes
from lightningdit_jax.planning.mesh import inference_mesh
from lightningdit_jax.planning.sampler import Drawing, sampler_plan
from tests import tiny
from tests.planning.devices import gpus, tpus

WHOLE = P()
SIXTEEN = abstract_mesh({"data": 1, "fsdp": 16, "tensor": 1})


def sized(*shape, spec=WHOLE, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(SIXTEEN, spec))


@pytest.mark.parametrize(
    ("leaf", "on_tpu"),
    [
        (sized(256, 384), 256 * 384 * 4),
        (sized(256, 72), 256 * 72 * 4),  # 256 as columns
        (sized(72, 72), 72 * 128 * 4),
        (sized(3, 1152), 4 * 1152 * 4),
        (sized(1000), 1024 * 4),
        (sized(28, 1152, 3, 16, 72, spec=P(None, "fsdp")), 28 * 72 * 3 * 16 * 128 * 4),
        (sized(512, 256, spec=P("fsdp"), dtype=jnp.bfloat16), 32 * 256 * 2),
        (sized(), 128 * 4),
        (sized(0, 4), 0),
    ],
)
def test_bytes_of_arrays_by_hand(leaf, on_tpu):
    parts = 16 if any(leaf.sharding.spec) else 1
    assert held_bytes({"a": leaf}, "tpu") == on_tpu
    plain = math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize // parts
    assert held_bytes([leaf], "gpu") == held_bytes([leaf], "cpu") == plain


def test_memory_is_what_devices_say_or_their_kind_has():
    assert Hardware.of(tpus("TPU v5 lite", 2, 4)).memory_bytes == 15.75 * 2**30
    assert Hardware.of(gpus("anything", 2, 33)).memory_bytes == 33 * 2**30
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    four = Hardware.of(jax.devices()[:4])
    assert 0 < 4 * four.memory_bytes < machine and four.is_known
    assert not Hardware.of(gpus("anything", 2, 33)).is_known


@pytest.mark.parametrize(
    ("devices", "chip", "sides"),
    [(tpus("TPU v5 lite", 4, 4), "v5e", (4, 4)), (tpus("TPU v4", 2, 2, 4), "v4", (2, 2, 4))],
)
def test_links_of_devices_are_those_of_their_slice(devices, chip, sides):
    mesh = make_mesh(devices=devices)
    found = Network.of_mesh(mesh)
    want = Network.of_devices(LINKS[chip], sides, list(mesh.devices.flat))
    assert found.links is want.links and found.sides == want.sides
    np.testing.assert_array_equal(found.coordinates, want.coordinates)
    assert Network.of_mesh(make_mesh(devices=jax.devices()[:2])) is None


def test_jobs_without_gradients_keep_weights_whole_unless_told():
    devices = jax.devices()[:8]
    auto = MeshConfig("auto", "auto", "auto", "auto")
    assert dict(inference_mesh(auto, devices).shape) == {"data": 8, "fsdp": 1, "tensor": 1}
    two = dataclasses.replace(auto, fsdp=2)
    assert dict(inference_mesh(two, devices).shape) == {"data": 4, "fsdp": 2, "tensor": 1}
    rest = dataclasses.replace(auto, fsdp=-1, tensor=2)
    assert dict(inference_mesh(rest, devices).shape) == {"data": 1, "fsdp": 4, "tensor": 2}
    with pytest.raises(ValueError, match="8 devices cannot be divided by 3"):
        inference_mesh(dataclasses.replace(auto, tensor=3), devices)


ARCHITECTURE = variant_config(
    "XL/1",
    **{
        key: value
        for key, value in dataclasses.asdict(tiny.dit_config()).items()
        if key not in ("depth", "hidden_size", "num_heads", "patch_size")
    }
    | {"input_size": 16, "in_channels": 32},
)


def drawing(**changes):
    return Drawing(ARCHITECTURE, 256, 128, 3 * 10**9, "bfloat16", 16, "tpu", **changes)


def test_a_sampler_takes_what_fits_what_helps_and_what_is_asked_for():
    options, hardware = tiny.config("dit_xl").sample, Hardware.of(tpus("TPU v5 lite", 4, 4))
    roomy = sampler_plan(options, hardware, drawing())
    assert (roomy.batch_size, roomy.decode_batch_size) == (16 * 64, 16)
    assert sampler_plan(options, hardware, drawing(num_images=40)).batch_size == 16 * 3
    crowded = sampler_plan(options, hardware, drawing(resident_bytes=10 * 10**9))
    assert crowded.peak_bytes < 0.92 * hardware.memory_bytes < roomy.peak_bytes + 10 * 10**9
    asked = dataclasses.replace(options, batch_size=4096, decode_batch_size=3)
    kept = sampler_plan(asked, hardware, drawing())
    assert (kept.batch_size, kept.decode_batch_size) == (4096, 3)
    with pytest.raises(ValueError, match=r"one image at a time on 16 x TPU v5 lite is expected"):
        sampler_plan(options, hardware, drawing(resident_bytes=15 * 10**9))
    said = roomy.line(hardware)
    assert "1,024 images at a time, decoded 16 at once on each" in said and "\n" not in said


@pytest.mark.parametrize(
    ("depth", "images", "decoded", "compiled"),
    [(28, 64, 16, 2_561_942_102), (2, 256, 4, 3_604_490_198), (2, 16, 16, 1_001_522_750)],
)
def test_a_samplers_memory_on_a_gpu_is_that_of_compiled_programs(depth, images, decoded, compiled):
    """XL/1 and its decoder in bfloat16 on an H100, by --mode=compile; it may be more, not less."""
    weights = {28: 1_436_428_926, 2: 193_041_534}[depth]
    there = Drawing(ARCHITECTURE, 256, 128, weights, "bfloat16", 1, "gpu")
    assert 1 <= there.peak_bytes(images, decoded) / compiled < 1.35
