"""Telling that a program needs more memory than its devices have."""

import jax


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of JAX says so, at compiling or at running."""
    return isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)


def first_line(error: BaseException) -> str:
    """What it says, in one line."""
    lines = str(error).splitlines()
    return next(line for line in lines if "RESOURCE_EXHAUSTED" in line)[:300]


def is_alike_everywhere(reason: str) -> bool:
    """Whether all processes of a run get this error: that of a compiler, before anything runs."""
    return "compile" in reason
