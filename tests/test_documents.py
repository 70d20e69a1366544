"""Links, anchors and commands of all documents are real; the site's own pages are complete.

Commands go through the command line's own checks, in a folder where the runs that they name are
written by the trainings among them. Output that documents show stands in blocks marked `text`.
"""

import importlib.util
import itertools
import pathlib
import re
import shlex
import shutil
from urllib.parse import unquote

import pytest
import yaml
from absl import flags
from absl.testing import flagsaver

from lightningdit_jax.assembly.workdir import write_config
from lightningdit_jax.commands import main
from lightningdit_jax.config import Config
from lightningdit_jax.config_fields import key_types
from scripts import site_pages
from tests.test_package import console_scripts, said_to_setup

pytestmark = pytest.mark.xdist_group(__name__)  # the folder of all commands is made once

ROOT = pathlib.Path(__file__).parent.parent
DOCUMENTS = [*sorted((ROOT / "docs").glob("*.md")), *(ROOT / p for p in site_pages.PAGES.values())]
TEXTS = {path: path.read_text() for path in DOCUMENTS}
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# What stands for something else: rows, numbers and names that are the reader's.
GIVEN = {
    "paper.py:ROW": "paper.py:xl_64ep",
    "=K ": "=12 ",
    "$scale": "2.0",
    " ...": " --workdir=/runs",
    "gs://BUCKET": "/bucket",
}

# What a command needs that not every machine has, and the words of which its section has one.
NEEDS = {
    "download_weights": "download|hub|GB",
    "gcloud|launch_tpu_vm|launch_gke": "TPU|chips|slice",
    "sbatch": "Slurm",
    "--topology": "extra|not there|absent|[Aa]head of time|compiled",
    r"on_devices|release_on_gpu|\.\[cuda\]": "GPU|H100",
}
# Commands of others, of which nothing here can be checked.
FOREIGN = {"docker", "gcloud", "source", "export", "for", "done", "xprof", "nvidia-smi", "jupyter"}


def ids(path):
    return path.name


def prose(text):
    return FENCED.sub("", text)


def anchors(text):
    """As GitHub makes them of headings."""
    found = set()
    for heading in re.findall(r"^#+ (.+)$", prose(text), re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        assert slug not in found, f"two headings are #{slug}"
        found.add(slug)
    return found


@pytest.mark.parametrize("path", DOCUMENTS, ids=ids)
def test_links_lead_to_files_and_headings(path):
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(TEXTS[path])):
        if re.match("https?:|mailto:", link):
            continue
        name, _, anchor = unquote(link).partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.exists(), link
        assert target.is_relative_to(ROOT), link
        assert not anchor or anchor in anchors(TEXTS[target]), link


def test_every_document_is_in_the_navigation_once_and_all_of_it_exists():
    text = re.sub(r"!!python\S+", "", (ROOT / "mkdocs.yml").read_text())
    nav = yaml.safe_load(text)["nav"]
    pages = [page for part in nav for of in part.values() for page in leaves(of)]
    made = {*site_pages.PAGES, "configuration.md", "api.md"}
    assert sorted(pages) == sorted({p.name for p in (ROOT / "docs").glob("*.md")} | made)


def leaves(part):
    return [part] if isinstance(part, str) else [v for of in part for v in of.values()]


def test_links_of_a_page_are_those_of_its_document():
    text = "[a](docs/data.md#speed) [b](LICENSE) [c](https://x/y.md) ![d](docs/images/samples.png)"
    assert site_pages.with_site_links("index.md", text) == (
        "[a](data.md#speed) [b](files/LICENSE.txt) [c](https://x/y.md) ![d](images/samples.png)"
    )
    text = "[a](../README.md#use) [b](training.md) [c](#here)"
    assert site_pages.with_site_links("data.md", text) == (
        "[a](index.md#use) [b](training.md) [c](#here)"
    )


def test_the_references_have_every_key_and_every_public_name():
    import lightningdit_jax as ldj

    page = site_pages.configuration()
    assert sorted(re.findall(r"^##+ `(.+)`$", page, re.MULTILINE)) == sorted(key_types(Config))
    batch = page.partition("### `train.batch_size`\n")[2].partition("###")[0]
    assert "default `1024`, at least 1" in batch and "the training of a generator" in batch
    named = re.findall(r"^::: lightningdit_jax\.(\w+)$", site_pages.api(), re.MULTILINE)
    assert named == ldj.__all__


@pytest.mark.parametrize("path", DOCUMENTS, ids=ids)
def test_python_compiles_and_takes_public_names(path):
    import lightningdit_jax as ldj

    for language, body in FENCED.findall(TEXTS[path]):
        if language == "python":
            compile(body, path.name, "exec")
    assert {*re.findall(r"\bldj\.(\w+)\(", TEXTS[path])} <= {*ldj.__all__}


def commands(text):
    """Every command: of blocks without a language, of indented lines and of code within lines."""
    blocks = [body for language, body in FENCED.findall(text) if not language]
    rest = prose(text)
    blocks += re.findall(r"^ {4,}((?:python|pip|make|export) (?:.*\\\n)*.*)", rest, re.M)
    within = re.findall(r"`((?:python|lightningdit) (?:[^`]*-[^`]*))`", rest)
    blocks += [" ".join(code.split()) for code in within]
    variables = {}
    for line in "\n".join(blocks).replace("\\\n", " ").splitlines():
        for name, value in [*GIVEN.items(), *variables.items()]:
            line = f"{line} ".replace(name, value).strip()
        if assigned := re.fullmatch(r'(\w+)="(.*)"', line):
            variables[f"${assigned[1]}"] = assigned[2]
            continue
        for part in re.split(r' && (?=(?:[^"]*"[^"]*")*[^"]*$)', line):  # outside of quotes
            if words := shlex.split(part, comments=True):
                yield words


def kept(words):
    """The words that main.py gets, None where it is not called."""
    for program in ("main.py", "lightningdit"):
        if program in words[:2]:
            return words[words.index(program) + 1 :]
    if words[0].startswith("--config."):
        return words
    if "--" in words:  # of a launch script
        return words[words.index("--") + 1 :]
    if "scripts/launch_slurm.sh" in words:
        return words[words.index("scripts/launch_slurm.sh") + 1 :]
    return None


EVERY = [(path.name, words) for path, text in TEXTS.items() for words in commands(text)]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The folder that commands are given in: configs, yaml files, and runs that were trained."""
    folder = tmp_path_factory.mktemp("documents")
    shutil.copytree(ROOT / "configs", folder / "configs")
    release = ROOT / "tests" / "testdata" / "release_yaml"
    shutil.copy(release / "config_details.yaml", folder / "THEIR.yaml")
    shutil.copy(release / "tokenizer_vavae_f16d32.yaml", folder / "VAVAE.yaml")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        # Runs of a config's own head, of the demo, and of the pages where nothing is trained.
        check(patch, ["--config=photos_64", "--workdir=runs/photos/tokenizer"], written=True)
        for _, words in EVERY:
            given = kept(words)
            line = " ".join(given or ())
            if "--workdir" in line and not re.search("--mode|--help|://", line):
                check(patch, given, written=True)
        yield patch


def check(patch, given, written=False):
    """What main makes of the words before it meets its devices. Raises ValueError."""
    words = ["main.py", *given]
    patch.setattr("sys.argv", words)
    saved = flagsaver.save_flag_values()
    flags.FLAGS.unparse_flags()
    try:
        config, *_ = main.checked(main.parse_flags(words))
        if written:
            write_config(config, main.WORKDIR.value)
    finally:
        flagsaver.restore_flag_values(saved)


CHECKED = [(page, given) for page, words in EVERY if (given := kept(words))]


@pytest.mark.parametrize(("page", "given"), CHECKED, ids=lambda v: v if isinstance(v, str) else "")
def test_commands_of_main_pass_its_checks(world, page, given):
    if given[0].startswith("--help"):
        topic = given[0].partition("=")[2]
        assert not topic or main.help.of_keys(topic, [])
        return
    if given[0].startswith("--config."):  # a part of the command that trains one of the two
        refused = []
        for config in ("dit_xl", "vavae_f16d32"):
            try:
                return check(world, [f"--config={config}", "--workdir=w", *given])
            except ValueError as error:
                refused.append(str(error))
        pytest.fail("\n".join(refused))
    check(world, given)


OTHERS = [(page, words) for page, words in EVERY if not kept(words)]


@pytest.mark.parametrize(("page", "words"), OTHERS, ids=lambda v: v if isinstance(v, str) else "")
def test_other_commands_name_what_there_is(page, words):
    words = [w for w in words if not re.fullmatch("[A-Z_]+=.*", w)]
    program, *given = words
    if program in ("python", ".venv/bin/python") and given[0] == "-m":
        module = importlib.util.find_spec(given[1])
        assert module, given[1]
        if given[1] == "pytest":
            assert all((ROOT / w).exists() for w in given[2:] if w.startswith("tests/"))
        elif given[1].startswith(("benchmarks", "tests")):
            has_options(given[2:], source(module))
    elif program in ("python", ".venv/bin/python"):
        own = (ROOT / given[0]).read_text()
        name = {"convert_torch_weights": "convert"}.get(stem := pathlib.Path(given[0]).stem, stem)
        inside = ROOT / "lightningdit_jax" / "commands" / f"{name}.py"
        has_options(given[1:], own + (inside.read_text() if inside.exists() else ""))
    elif program == "make":
        targets = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.M)[1].split()
        assert next(w for w in given if "=" not in w) in targets
    elif program == "pip":
        extras = {k.value for k in said_to_setup()["extras_require"].keys}
        for named in itertools.chain.from_iterable(re.findall(r"\[(.+)\]", w) for w in given):
            assert {*named.split(",")} <= extras
    else:
        assert program in FOREIGN or program in console_scripts() or program == "pre-commit"


@pytest.mark.parametrize("path", DOCUMENTS, ids=ids)
def test_what_not_every_machine_has_is_said_where_the_command_stands(path):
    """In the words of its section or in a comment of its block."""
    for section in re.split(r"^## ", TEXTS[path], flags=re.MULTILINE):
        lines = [" ".join(words) for words in commands(section)]
        said = re.sub(r"^ *\S*(python|gcloud|sbatch|pip) [^#\n]*", "", section, flags=re.MULTILINE)
        for command, wanted in NEEDS.items():
            if any(re.search(command, line) for line in lines):
                assert re.search(wanted, said), f"{section[:60]}: {command} needs {wanted}"


def source(module):
    """The text of a program, with what lies beside it where it is a package."""
    path = pathlib.Path(module.origin)
    beside = sorted(path.parent.glob("*.py")) if path.name == "__init__.py" else [path]
    return "".join(p.read_text() for p in beside)


def has_options(words, text):
    for word in words:
        if word.startswith("--"):
            name = word.partition("=")[0].removeprefix("--").removeprefix("no-")
            assert name in text or name.replace("-", "_") in text, word
