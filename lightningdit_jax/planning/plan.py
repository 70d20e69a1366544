"""How a step is spread over devices: every way that the config leaves open, the best one first."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from lightningdit_jax.config import Config
from lightningdit_jax.parallel.mesh import AXES, abstract_mesh, check_batch_size, mesh_sizes
from lightningdit_jax.planning.hardware import Hardware

_GIB = 2**30
# Of a device's memory, what a plan may be expected to take: predictions are within a tenth.
MARGIN = 0.92


@dataclasses.dataclass(frozen=True)
class Plan:
    """One way to run a step.

    mesh: sizes of data, fsdp, tensor and dcn_data. peak_bytes: expected of each device. seconds:
    expected of a step, in units of their own where the speed of the devices is not known.
    """

    mesh: Mapping[str, int]
    remat: str
    accumulate_steps: int
    peak_bytes: float
    seconds: float

    def applied(self, config: Config) -> Config:
        """The config with what was chosen in the place of what was "auto"."""
        return config.changed(
            mesh=self.mesh,
            compute={"remat": self.remat},
            train={"accumulate_steps": self.accumulate_steps},
        )

    def flags(self) -> str:
        """The same as arguments of a command."""
        values = {
            **{f"mesh.{axis}": size for axis, size in self.mesh.items()},
            "compute.remat": self.remat,
            "train.accumulate_steps": self.accumulate_steps,
        }
        return " ".join(f"--config.{key}={value}" for key, value in values.items())


class Placed(Protocol):
    """A train step on some mesh."""

    def peak_bytes(self, remat: str, parts: int) -> float:
        """Expected of each device."""
        ...

    def seconds(self, remat: str, parts: int) -> float:
        """Expected of a step."""
        ...


class Step(Protocol):
    """A train step of some kind and batch size."""

    @property
    def policies(self) -> Sequence[str]:
        """What may be kept for the backward pass, by name."""
        ...

    @property
    def accumulates(self) -> bool:
        """Whether its batch can be computed in parts."""
        ...

    def is_worth_cutting(self, fsdp: int) -> bool:
        """Whether so many parts of its arrays are not too small for the devices."""
        ...

    def on(self, sizes: Mapping[str, int]) -> Placed:
        """On a mesh of these sizes. Raises ValueError where it does not divide the arrays."""
        ...


def plans(config: Config, hardware: Hardware, step: Step) -> list[Plan]:
    """The plans that fit, the fastest first; on devices that nobody knows the smallest first.

    What the config says is kept, what is "auto" chosen; where it says everything there is one plan,
    whether it is expected to fit or not. Raises ValueError for a mesh that cannot be, a batch that
    no mesh cuts, and where nothing fits.
    """
    found = list(_candidates(config, hardware, step))
    if len(found) == 1 and not is_open(config):
        return found
    limit = MARGIN * hardware.memory_bytes
    fitting = [plan for plan in found if plan.peak_bytes <= limit]
    if not fitting:
        least = min(found, key=lambda plan: plan.peak_bytes)
        raise ValueError(
            f"no plan fits {hardware}: of {len(found)}, the smallest ({describe(least)}) is "
            f"expected to take {least.peak_bytes / _GIB:.1f} GiB on each, where "
            f"{limit / _GIB:.1f} of {hardware.memory_bytes / _GIB:.1f} GiB can be planned with; "
            "take more devices or a smaller model, or try a plan all the same by setting its keys: "
            f"{least.flags()}"
        )
    if hardware.is_known:
        return sorted(fitting, key=lambda plan: (plan.seconds, plan.mesh["fsdp"]))
    return sorted(fitting, key=lambda plan: (plan.peak_bytes, plan.seconds))


def smaller(candidates: Sequence[Plan], than: Plan) -> list[Plan]:
    """What may still fit where a plan did not, in the same order: those a tenth smaller."""
    return [plan for plan in candidates if plan.peak_bytes <= 0.9 * than.peak_bytes]


def is_open(config: Config) -> bool:
    """Whether the config leaves anything of a training step to a plan."""
    values = (*dataclasses.astuple(config.mesh), config.compute.remat)
    return "auto" in (*values, config.train.accumulate_steps)


def describe(plan: Plan) -> str:
    """What was chosen, in the words of the config."""
    mesh = " x ".join(
        f"{axis} {size}" for axis, size in plan.mesh.items() if size > 1 and axis in AXES
    )
    parts = plan.accumulate_steps
    cut = "the batch whole" if parts == 1 else f"the batch in {parts} parts"
    return f"mesh {mesh or 'of one device'}, remat {plan.remat}, {cut}"


def line(plan: Plan, hardware: Hardware, fitting: Sequence[Plan]) -> str:
    """What was chosen, how much memory it is expected to take, and why it."""
    if not hardware.is_known:
        why = "the smallest, as nobody measured such devices"
    elif len(fitting) == 1:
        why = "what the config leaves open"
    elif plan.seconds == min(other.seconds for other in fitting):
        why = f"the fastest expected of {len(fitting)} that fit"
    else:
        why = "what was faster did not fit"
    peak, memory = plan.peak_bytes / _GIB, hardware.memory_bytes / _GIB
    return (
        f"plan for {hardware}: {describe(plan)}; {peak:.1f} of {memory:.1f} GiB expected on each; "
        f"{why}"
    )


def _candidates(config: Config, hardware: Hardware, step: Step) -> Iterator[Plan]:
    policies = step.policies if config.compute.remat == "auto" else (config.compute.remat,)
    refused: ValueError | None = None
    found = False
    check_divides(config, hardware)
    for sizes in _meshes(config, hardware):
        if config.mesh.fsdp == "auto" and not step.is_worth_cutting(sizes["fsdp"]):
            continue
        try:
            placed = step.on(sizes)
        except ValueError as error:
            refused = error
            continue
        for remat, parts in itertools.product(policies, _parts(config, sizes, hardware, step)):
            found = True
            yield Plan(
                sizes, remat, parts, placed.peak_bytes(remat, parts), placed.seconds(remat, parts)
            )
    if not found:
        raise refused or ValueError(
            f"config.mesh of {hardware} has {hardware.granules} slices or nodes, and no mesh with "
            "the sizes that are set has as many parts of data; set a smaller config.mesh.fsdp or "
            "leave it auto"
        )


def _meshes(config: Config, hardware: Hardware) -> Iterator[dict[str, int]]:
    """Sizes of all meshes that the config leaves open; those it says as they are."""
    asked, total = dataclasses.asdict(config.mesh), len(hardware.devices)
    dcn = hardware.granules if asked["dcn_data"] == "auto" else asked["dcn_data"]
    tensor = 1 if asked["tensor"] == "auto" else asked["tensor"]
    if "auto" not in (asked["data"], asked["fsdp"]):
        yield mesh_sizes(asked["data"], asked["fsdp"], tensor, total) | {"dcn_data": dcn}
        return
    left = total // tensor if tensor > 0 else total
    for fsdp in range(1, left + 1):
        sizes = {"data": left // fsdp, "fsdp": fsdp, "tensor": tensor, "dcn_data": dcn}
        agrees = all(asked[axis] in ("auto", -1, sizes[axis]) for axis in ("data", "fsdp"))
        if left % fsdp == 0 and agrees and sizes["data"] % dcn == 0:
            yield sizes


def _parts(
    config: Config, sizes: Mapping[str, int], hardware: Hardware, step: Step
) -> Sequence[int]:
    """Into how many parts the batch may be cut on a mesh: powers of two that leave whole rows."""
    batch, shards = config.train.batch_size, sizes["data"] * sizes["fsdp"]
    if config.train.accumulate_steps != "auto":
        return (config.train.accumulate_steps,)
    if batch % shards or shards % hardware.num_processes:
        return ()
    each = batch // shards
    powers = (2**power for power in range(each.bit_length()))
    return [parts for parts in powers if each % parts == 0 and (step.accumulates or parts == 1)]


def check_divides(config: Config, hardware: Hardware) -> None:
    """Raises ValueError where no mesh has the sizes that are set, or none cuts the batch.

    Asks nothing but numbers, so it can come before data is opened.
    """
    asked, total = dataclasses.asdict(config.mesh), len(hardware.devices)
    data, fsdp, tensor = (-1 if asked[axis] == "auto" else asked[axis] for axis in AXES)
    if asked["tensor"] == "auto":
        tensor = 1
    if data == fsdp == -1:
        fsdp = 1
    sizes = mesh_sizes(data, fsdp, tensor, total)
    parts = config.train.accumulate_steps
    check_batch_size(
        config.train.batch_size,
        abstract_mesh(sizes),
        hardware.num_processes,
        1 if parts == "auto" else parts,
    )
