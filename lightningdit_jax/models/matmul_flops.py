"""Arithmetic of any function, counted in its trace."""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core


def matmul_flops(function: Callable[..., Any], *arguments: Any) -> float:
    """FLOPs of the dots and convolutions of function(*arguments), two per multiply-add.

    arguments: arrays or ShapeDtypeStructs; nothing is computed. The body of a scan counts as often
    as it runs, positions of a kernel over padding count as well.
    """
    return _jaxpr_flops(jax.make_jaxpr(function)(*arguments).jaxpr)


def _jaxpr_flops(jaxpr: Any) -> float:
    total = 0.0
    for equation in jaxpr.eqns:
        name, out = equation.primitive.name, equation.outvars[0].aval
        if name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            total += 2.0 * out.size * math.prod(left[axis] for axis in contracted)
        elif name == "conv_general_dilated":
            kernel = equation.invars[1].aval
            features = equation.params["dimension_numbers"].rhs_spec[0]
            total += 2.0 * out.size * (kernel.size // kernel.shape[features])
        times = equation.params["length"] if name == "scan" else 1
        for inner in core.jaxprs_in_params(equation.params):
            total += times * _jaxpr_flops(inner)
    return total
