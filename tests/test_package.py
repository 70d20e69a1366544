"""setup.py's ranges, constraints.txt's pins, the hashes and the Pythons under test say the same."""

import ast
import importlib.metadata
import pathlib
import re
import subprocess
import sys

import pytest
import setuptools
import yaml
from packaging.requirements import Requirement

import lightningdit_jax as ldj
from lightningdit_jax.configs import base

ROOT = pathlib.Path(__file__).parent.parent


# Those that every change is tested on, in the order of their age.
PYTHONS = re.findall(r'"(3\.\d+)"', (ROOT / ".github/workflows/test.yml").read_text())


def pins(python):
    """Name and version of what a Python is pinned to."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    every = [Requirement(line) for line in lines if not line.startswith("#")]
    there = {"python_version": python}
    chosen = [r for r in every if r.marker is None or r.marker.evaluate(there)]
    found = {canonical(r.name): str(r.specifier).removeprefix("==") for r in chosen}
    assert len(found) == len(chosen), f"two pins of one package for Python {python}"
    return found


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def said_to_setup():
    """The arguments of setup() as they stand in setup.py."""
    call = ast.parse((ROOT / "setup.py").read_text()).body[-1].value
    return {k.arg: k.value for k in call.keywords}


def requirements():
    keywords = said_to_setup()
    extras = ast.literal_eval(keywords["extras_require"])
    # jaxlib plugins follow jax's own pin; MLflow wants importlib_metadata below the pinned one,
    # Gradio Pillow.
    apart = ("cuda", "tpu", "mlflow", "page")
    chosen = [r for name, rs in extras.items() if name not in apart for r in rs]
    return [Requirement(r) for r in ast.literal_eval(keywords["install_requires"]) + chosen]


@pytest.mark.parametrize("python", PYTHONS)
def test_every_requirement_is_pinned_inside_its_range(python):
    pinned = pins(python)
    for requirement in requirements():
        pin = pinned.get(canonical(requirement.name))
        assert pin is not None, f"{requirement.name} is not in constraints.txt"
        assert pin in requirement.specifier, f"{requirement} does not admit {pin}"


def hashed(name):
    """The requirements of a file, each with its SHA-256s."""
    entries = (ROOT / name).read_text().replace("\\\n", "").splitlines()
    parts = [entry.split(" --hash=sha256:") for entry in entries]
    return {Requirement(first.strip()): [h.strip() for h in hashes] for first, *hashes in parts}


HASHED = ("requirements.txt", "requirements-build.txt", "requirements-docs.txt")


@pytest.mark.parametrize("name", HASHED)
def test_every_hashed_version_is_the_pinned_one(name):
    for requirement, hashes in hashed(name).items():
        assert hashes and all(re.fullmatch("[0-9a-f]{64}", h) for h in hashes), requirement
    for python in PYTHONS:
        there = {"python_version": python, "python_full_version": f"{python}.0"}
        linux = there | {"sys_platform": "linux", "platform_python_implementation": "CPython"}
        pinned, seen = pins(python), set()
        for requirement in hashed(name):
            if requirement.marker is None or requirement.marker.evaluate(linux):
                wanted = pinned.get(canonical(requirement.name))
                assert str(requirement.specifier) == f"=={wanted}", requirement
                assert requirement.name not in seen
                seen.add(requirement.name)


def test_what_make_setup_installs_is_hashed_and_complete():
    """setup.py's requirements with the extras, and what the installed ones of them require."""
    covered = {canonical(requirement.name) for requirement in hashed("requirements.txt")}
    own = importlib.metadata.requires("lightningdit_jax")
    extras = ("", "digits", "test")
    queue, seen = [r for r in map(Requirement, own) if wanted(r, extras)], set()
    assert {"jax", "pytest", "scikit-learn"} <= {r.name for r in queue}
    while queue:
        requirement = queue.pop()
        key = (canonical(requirement.name), *sorted(requirement.extras))
        if key in seen:
            continue
        seen.add(key)
        assert key[0] in covered, f"{requirement} has no hash: make requirements"
        further = importlib.metadata.requires(requirement.name) or ()
        queue += [r for r in map(Requirement, further) if wanted(r, ("", *requirement.extras))]


def test_what_make_docs_installs_is_the_extra():
    """The Makefile names the packages again, since the extra alone cannot be compiled."""
    extras = ast.literal_eval(said_to_setup()["extras_require"])
    names = {canonical(Requirement(r).name) for r in extras["docs"]}
    assert names <= {canonical(requirement.name) for requirement in hashed("requirements-docs.txt")}
    makefile = (ROOT / "Makefile").read_text()
    (line,) = re.findall(r"printf '%s\\n' (.*) \|", makefile)
    assert {canonical(Requirement(r.strip("'")).name) for r in line.split()} == names


def wanted(requirement, extras):
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in extras)


def test_the_hashed_files_name_no_index():
    for name in HASHED:
        assert not re.search("https?:|file:|index|find-links", (ROOT / name).read_text())


def test_actions_are_pinned_by_commit_and_may_only_read():
    workflow = (ROOT / ".github/workflows/test.yml").read_text()
    used = re.findall(r"uses: (\S+)", workflow)
    assert used and all(re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action) for action in used)
    assert "permissions:\n  contents: read\n\n" in workflow
    assert workflow.count("permissions:") == 1 and "secrets." not in workflow


def test_the_oldest_python_is_the_one_that_setup_and_make_ask_for():
    asked = said_to_setup()["python_requires"].value
    assert asked == f">={PYTHONS[0]}"
    assert f"< ({PYTHONS[0].replace('.', ', ')})" in (ROOT / "Makefile").read_text()


def console_scripts():
    """{command: (module, function)} that an installation brings."""
    lines = ast.literal_eval(said_to_setup()["entry_points"])["console_scripts"]
    pairs = (line.split(" = ") for line in lines)
    return {name: tuple(place.split(":")) for name, place in pairs}


def test_every_command_of_an_installation_is_there():
    commands = console_scripts()
    assert {"lightningdit", "lightningdit-convert"} <= commands.keys()
    for module, function in commands.values():
        assert callable(getattr(importlib.import_module(module), function))


def test_the_configs_are_part_of_the_package():
    """By a link, so that they are there in a clone, in a wheel and in an installation."""
    (include,) = said_to_setup()["packages"].keywords
    found = setuptools.find_packages(str(ROOT), include=ast.literal_eval(include.value))
    assert {"lightningdit_jax", "lightningdit_jax.configs", "lightningdit_jax.commands"} <= {*found}
    inside = pathlib.Path(base.__file__).resolve()
    assert inside == ROOT / "configs" / "base.py"


def test_every_import_is_required():
    known = {canonical(r.name) for r in requirements()}
    provides = {"PIL": "pillow", "absl": "absl-py", "sklearn": "scikit-learn"} | {
        "orbax": "orbax-checkpoint",
        "gradio": None,
        "libtpu": None,
        "mlflow": None,
        "torch": None,
        "yaml": "pyyaml",
    }
    for path in (ROOT / "lightningdit_jax").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module]
            for name in (n.split(".")[0] for n in names):
                package = provides.get(name, name)
                if name == "lightningdit_jax" or package is None or name in STDLIB:
                    continue
                assert canonical(package) in known, f"{path.name} imports {name}"


STDLIB = __import__("sys").stdlib_module_names


def test_public_names_are_told_before_anything_is_imported():
    """To people by dir, to type checkers by imports, and each is really there."""
    code = (
        "import sys, lightningdit_jax as ldj\n"
        "names = dir(ldj)\n"
        "assert 'jax' not in sys.modules\n"
        "print(*names)\n"
        "[getattr(ldj, name) for name in names]\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    names = done.stdout.split()
    assert {"load", "generate", "LightningDiT", "__version__"} <= set(names)
    tree = ast.parse((ROOT / "lightningdit_jax" / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    typed = {alias.name for node in block.body for alias in node.names}
    assert typed | {"__version__"} == set(names) == {*ldj.__all__, "__version__"}


def test_the_version_stands_once():
    assert importlib.metadata.version("lightningdit_jax") == ldj.__version__


def test_changelog_and_citation_are_of_this_version():
    changelog = (ROOT / "CHANGELOG.md").read_text()
    versions = re.findall(r"^## \[(.+)\]", changelog, re.MULTILINE)
    assert versions[0] == ldj.__version__ and len({*versions}) == len(versions)
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0" and citation["license"] == "MIT"
    assert str(citation["version"]) == ldj.__version__
    assert citation["title"] and citation["message"] and citation["authors"]
    (paper,) = citation["references"]
    assert [i["value"] for i in paper["identifiers"]] == ["arXiv:2501.01423"]


def test_the_licenses_are_those_of_the_pinned_versions(monkeypatch):
    """The names everywhere; what each says of itself where the versions are the listed ones."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    script = importlib.import_module("list_licenses")
    page = (ROOT / "docs" / "licenses.md").read_text()
    assert page.startswith(script.HEAD) and page.endswith(script.TAIL)
    listed = dict(re.findall(r"^\| ([\w-]+) \| (.+) \|$", page, re.MULTILINE))
    installed = script.packages()
    assert set(installed) <= set(listed)
    oldest = pins(PYTHONS[0])
    for name in installed:
        if importlib.metadata.version(name) == oldest[name]:
            assert listed[name] == script.license_of(name), "make docs/licenses.md anew"
