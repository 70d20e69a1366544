"""How tests have XLA compile, in their own process and in those they start."""


def xla_flags(devices: int) -> str:
    """XLA_FLAGS for so many CPU devices.

    Compiling is most of what tests wait for, so LLVM optimizes less than by default, and loops are
    written by XLA's older generator of code, which takes half the time. What XLA makes of a program
    before that is the same.
    """
    return (
        f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=1 "
        "--xla_cpu_use_fusion_emitters=false"
    )
