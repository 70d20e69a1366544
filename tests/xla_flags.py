"""How tests have XLA compile, in their own process and in those they start."""

import importlib.metadata

# compiler_options of a program that runs for longer than it compiles.
OPTIMIZED = {"xla_backend_optimization_level": 1}


def xla_flags(devices: int) -> str:
    """XLA_FLAGS for so many CPU devices.

    Compiling is most of what tests wait for, so LLVM does not optimize and gets a program in one
    piece, and loops are written by XLA's older generator of code where there still is one: a fifth
    of the time. What XLA makes of a program before that is the same.
    """
    flags = [
        f"--xla_force_host_platform_device_count={devices}",
        "--xla_backend_optimization_level=0",
        "--xla_cpu_parallel_codegen_split_count=1",
    ]
    if importlib.metadata.version("jaxlib").startswith("0.10."):  # others end at a flag not theirs
        flags.append("--xla_cpu_use_fusion_emitters=false")
    return " ".join(flags)
