"""Dependencies run one way, and torch and TensorFlow stay out."""

import ast
import pathlib
import subprocess
import sys

import pytest

PACKAGE = pathlib.Path(__file__).parent.parent / "lightningdit_jax"
BASE = {
    "array_digest",
    "atomic_file",
    "average_profiles",
    "averages",
    "background_noise",
    "checkpoint_choice",
    "checkpoint_digests",
    "checkpoint_meta",
    "checkpoint_reading",
    "checkpoint_writing",
    "command_text",
    "config_comments",
    "config_fields",
    "config_flow",
    "config_choices",
    "config_jobs",
    "config_ranges",
    "config_vae_loss",
    "configs",
    "errors",
    "file_digest",
    "foreign_names",
    "host_memory",
    "hub",
    "hub_folder",
    "interruption",
    "latent_scaling",
    "lease",
    "mapped_file",
    "metrics_log",
    "npz_reader",
    "object_stores",
    "path_patterns",
    "pickle_check",
    "progress",
    "safetensors_reader",
    "sampling_options",
    "sole_writer",
    "square",
    "storage_errors",
    "torch_pickle",
    "torch_reader",
    "tree_paths",
    "verification",
    "weight_shards",
    "whole_numbers",
}
LOWER = {
    "config",
    "checkpoint",
    "models",
    "flow",
    "data",
    "parallel",
    "evaluation",
    "release_config",
}
MIDDLE = {"assembly"}
PLANS = {"planning"}
UPPER = {"training", "inference", "convert", "publishing", "report"}
TOP = {"commands"}


def imported(path):
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def our_parts(path):
    ours = (n.split(".") for n in imported(path) if n.startswith("lightningdit_jax."))
    return {parts[1] for parts in ours}


def part_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


# configs is a link, which rglob does not follow.
FILES = sorted(
    p
    for p in [*PACKAGE.rglob("*.py"), *(PACKAGE / "configs").glob("*.py")]
    if p.parent != PACKAGE or p.stem != "__init__"
)


def test_every_part_has_a_layer():
    assert {part_of(p) for p in FILES} <= BASE | LOWER | MIDDLE | PLANS | UPPER | TOP


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_downwards(path):
    part, seen = part_of(path), our_parts(path)
    allowed = {part} | BASE
    if part in BASE:
        allowed = BASE
    elif part in MIDDLE:
        allowed |= LOWER
    elif part in PLANS:
        allowed |= LOWER | MIDDLE
    elif part in UPPER:
        allowed |= LOWER | MIDDLE | PLANS
    elif part in TOP:
        allowed |= LOWER | MIDDLE | PLANS | UPPER
    assert seen <= allowed, f"{path} imports {sorted(seen - allowed)}"
    roots = {name.split(".")[0] for name in imported(path)}
    assert "tensorflow" not in roots
    if path.name != "torch_io.py":
        assert "torch" not in roots
    if path.relative_to(PACKAGE) != pathlib.Path("inference/page/view.py"):
        assert "gradio" not in roots


# And whom each uses.
WINGS = {"sampling": set(), "extraction": set(), "quality": {"sampling"}, "page": {"sampling"}}
INFERENCE = PACKAGE / "inference"


@pytest.mark.parametrize("wing", WINGS)
def test_wings_of_inference_use_each_other_one_way(wing):
    for path in (INFERENCE / wing).glob("*.py"):
        parts = (name.split(".") for name in imported(path))
        seen = {p[2] for p in parts if p[:2] == ["lightningdit_jax", "inference"] and len(p) > 2}
        assert seen & WINGS.keys() <= WINGS[wing] | {wing}, path
    assert {p.name for p in INFERENCE.iterdir() if p.is_dir()} - {"__pycache__"} == WINGS.keys()


def test_parts_that_the_wings_share_use_none_of_them():
    for path in INFERENCE.glob("*.py"):
        assert not any(
            name.startswith(f"lightningdit_jax.inference.{wing}")
            for name in imported(path)
            for wing in WINGS
        ), path


def test_importing_everything_needs_neither_torch_nor_tensorflow():
    modules = [
        ".".join(p.relative_to(PACKAGE.parent).with_suffix("").parts)
        for p in FILES
        if p.stem not in ("__init__", "torch_io")
    ]
    code = (
        "import sys, importlib\n"
        "sys.modules['torch'] = sys.modules['tensorflow'] = None\n"
        f"[importlib.import_module(m) for m in {modules!r}]\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=PACKAGE.parent)
