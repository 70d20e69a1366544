"""The table of keys and jobs against what the jobs read, each run once on a tiny config."""

import contextlib
import dataclasses
import functools
import io
import tarfile

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lightningdit_jax.assembly.check import check
from lightningdit_jax.assembly.choices import solver_choice, source_choice
from lightningdit_jax.assembly.images import open_image_batches
from lightningdit_jax.assembly.verify import verify
from lightningdit_jax.assembly.workdir import check_command_line, write_config
from lightningdit_jax.commands.modes import MODES
from lightningdit_jax.config import Config
from lightningdit_jax.config_fields import key_types
from lightningdit_jax.config_jobs import (
    CHECK,
    COMPILE_BOTH,
    COMPILE_GENERATOR,
    COMPILE_SAMPLER,
    COMPILE_TOKENIZER,
    EVALUATE_SAMPLES,
    EVALUATE_SEEDS,
    EVALUATE_TOKENIZER,
    EVALUATOR,
    EXTRACT,
    JOBS,
    MEANING,
    PAGE,
    PICTURES,
    REPORT,
    SAMPLE,
    SWEEP,
    TRAIN_BOTH,
    TRAIN_GENERATOR,
    TRAIN_TOKENIZER,
    VERIFY,
    check_given,
    is_read,
    is_taken,
    jobs_of,
    meaning_of,
    readers,
)
from lightningdit_jax.data import sources
from lightningdit_jax.data.images import UnreadableImageError
from lightningdit_jax.inference.extraction.job import extract
from lightningdit_jax.inference.page import job as page_job
from lightningdit_jax.inference.page import settings as page_settings
from lightningdit_jax.inference.quality.in_training import make_training_evaluator
from lightningdit_jax.inference.quality.job import evaluate
from lightningdit_jax.inference.quality.metrics import metric_choice
from lightningdit_jax.inference.quality.sweep import sweep
from lightningdit_jax.inference.quality.tokenizer_measures import measure_choice
from lightningdit_jax.inference.quality.training_pictures import make_training_picture
from lightningdit_jax.inference.sampling import compile as sampler_compile
from lightningdit_jax.inference.sampling.job import sample
from lightningdit_jax.models.lpips import LPIPS, LPIPSConfig
from lightningdit_jax.models.vit import ViT
from lightningdit_jax.parallel.chips import CHIPS
from lightningdit_jax.parallel.mesh import make_mesh
from lightningdit_jax.parallel.topology import Slice
from lightningdit_jax.report.job import report
from lightningdit_jax.training import compile as step_compile
from lightningdit_jax.training.init.opening import open_init
from lightningdit_jax.training.init.tokenizer import open_tokenizer
from lightningdit_jax.training.job import abstract_joint_job, abstract_tokenizer_job, make_job
from lightningdit_jax.training.run import run_meta, train
from tests import tiny

# The recordings of the module are made once, by the worker that has compiled the same programs.
pytestmark = pytest.mark.xdist_group("jobs")

KEYS = tuple(key_types(Config))
METRIC = (metric_choice(),)
CHOICES = (source_choice(), solver_choice(), measure_choice(), *METRIC)
# Keys that a job reads with other values than here: a Fréchet distance needs a network,
# a policy on NaN a NaN. The cache is main.py's to set.
FRECHET = {f"evaluate.{key}" for key in ("inception", "networks", "reference", "batch_size")}
NAN = {"train.nonfinite", "train.max_nonfinite"}
HELD_OUT = {"train.validate_examples", "repa.valid_path"}  # which need held-out data
# What the images that REPA computes features of have from the record of the latents.
OF_RECORD = {"data.corrupt", "data.labels", "data.tfds_name"}
UNSEEN = {
    EVALUATE_SAMPLES: FRECHET | {key for key in KEYS if key.startswith("mesh.")},
    SWEEP: FRECHET,
    EVALUATE_SEEDS: FRECHET,
    EVALUATOR: FRECHET,
    TRAIN_GENERATOR: NAN | HELD_OUT,
    TRAIN_TOKENIZER: NAN | HELD_OUT,
    TRAIN_BOTH: NAN | HELD_OUT,
}
TINY_LPIPS = LPIPSConfig(channels=(4, 4, 4, 4, 4))
LOSS_SECTIONS = ("vae_loss", "stages", "discriminator", "frozen")
OF_THE_LOOP = ("train", "optimizer", "mesh", "compute", "data")
CACHE = {"compute.compilation_cache"}


@contextlib.contextmanager
def recording(into):
    """Collects the keys that are read of any Config.

    But for the dump into meta and config.json, and for the checks of another one made of it.
    """
    paused = False

    def watched(prefix, names, self, name):
        if name in names and not paused:
            into.add(prefix + name)
        return object.__getattribute__(self, name)

    def unseen(method):
        def run(self, **arguments):
            nonlocal paused
            paused = True
            try:
                return method(self, **arguments)
            finally:
                paused = False

        return run

    with pytest.MonkeyPatch.context() as patch:
        for name in ("to_dict", "changed"):
            patch.setattr(Config, name, unseen(getattr(Config, name)))
        patch.setattr(page_settings, "from_dict", unseen(page_settings.from_dict))
        hints = {field.name: field.type for field in dataclasses.fields(Config)}
        sections = {n: t for n, t in hints.items() if dataclasses.is_dataclass(t)}
        for prefix, cls in {"": Config, **{f"{n}.": t for n, t in sections.items()}}.items():
            names = {f.name for f in dataclasses.fields(cls)}
            names -= sections.keys() if cls is Config else set()
            get = functools.partial(watched, prefix, names)
            patch.setattr(cls, "__getattribute__", lambda self, name, get=get: get(self, name))
        yield


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Keys read, by job: each runs once, in the order of a project."""
    folder = tmp_path_factory.mktemp("jobs")
    seen = {job: set() for job in JOBS}
    tokenizer, generator = (str(folder / name) for name in ("tokenizer", "generator"))
    latents = str(folder / "latents")
    vae = tiny.config("digits_vavae", extract__path=latents, **tiny.READS_MOST)
    dit = tiny.config(
        "digits_dit",
        data__path=latents,
        model__input_size=8,
        sample__tokenizer=tokenizer,
        sample__num_samples=30,
        sample__num_steps=3,
        sweep__num_samples=30,
        page__port=0,
        **tiny.READS_MOST,
    )
    with recording(seen[TRAIN_TOKENIZER]):
        train(vae, tokenizer)
        open_init(vae.changed(train={"init": tokenizer}), str(folder / "new"))
    vit = tiny.write_network(folder / "vit", ViT, tiny.VIT, "vit")
    with recording(seen[EXTRACT]):
        extract(vae.changed(extract={"features": vit, "features_grid": 4}), tokenizer)
    with recording(seen[EVALUATE_TOKENIZER]):
        evaluate(vae.changed(evaluate={"measures": ("ifid",)}), tokenizer)
    with recording(seen[TRAIN_GENERATOR]):
        state = train(dit, generator)
        open_init(dit.changed(train={"init": generator}), str(folder / "new"))
        aligned = dit.changed(
            repa={"features": "cached", "depth": 1, "spatial_norm": "zscore"},
            model={"patch_size": 2},
        )
        computed = aligned.changed(repa={"features": "computed"}, frozen={"foundation": vit})
        for config in (aligned, computed):
            make_job(config, make_mesh(devices=jax.devices()[:1]))
    joint = aligned_jointly(dit, whole_loss(vae), vit)
    with recording(seen[TRAIN_BOTH]):
        without = joint.changed(vae_loss={"perceptual_weight": 0.0})
        make_job(without, make_mesh(devices=jax.devices()[:1]))
        open_init(without.changed(train={"init": generator}), str(folder / "new"))
        open_tokenizer(without.changed(repae={"init": tokenizer}), str(folder / "new"))
    within = dit.changed(train={"evaluate_every_steps": 1}, evaluate={"train_samples": 30})
    with recording(seen[EVALUATOR]):
        make_training_evaluator(within)(1, state)
    pictured = dit.changed(train={"picture_every_steps": 1})
    with recording(seen[PICTURES]):
        make_training_picture(pictured, None, None)(folder / "1.png", state)
    with recording(seen[SAMPLE]):
        sample(dit, generator)
    with recording(seen[SWEEP]):
        sweep(dit, generator)
    with recording(seen[PAGE]):
        draw_on_a_page(dit, generator)
    seen[PAGE].remove("sample.num_samples")  # of the config that its controls made
    with recording(seen[EVALUATE_SAMPLES]):
        evaluate(dit, generator)
    drawn = dit.changed(evaluate={"seeds": (1, 2)})
    with recording(seen[EVALUATE_SEEDS]):
        evaluate(drawn, generator)
    with recording(seen[VERIFY]):
        verify(dit, generator)
    with recording(seen[CHECK]):
        check(vae, str(folder / "checked"))
    with recording(seen[REPORT]):
        report(generator, {})
    whole = whole_loss(vae)
    both = dit.changed(tokenizer=dataclasses.asdict(vae.tokenizer))
    with pytest.MonkeyPatch.context() as patch:
        # All but the compiler for chips that are not there.
        where = Slice("v5e:1x1", CHIPS["v5e"], jax.devices()[:1])
        for module in (step_compile, sampler_compile):
            patch.setattr(module, "open_slice", lambda topology: where)
            patch.setattr(module, "compile_on", lambda *args, **_: {})
        tiny.publish(patch, "lpips", TINY_LPIPS)
        tiny.publish(patch, "vit", tiny.VIT)
        with recording(seen[COMPILE_GENERATOR]):
            by_muon = aligned.changed(optimizer={"name": "muon"})
            for config in (by_muon, computed):
                step_compile.compile_train_step(config, str(folder), "v5e:1x1")
        with recording(seen[COMPILE_TOKENIZER]):
            step_compile.compile_train_step(whole, str(folder), "v5e:1x1")
            soft_kl = whole.changed(vae_loss={"alignment_loss": "soft_kl"})
            abstract_tokenizer_job(soft_kl, make_mesh(devices=jax.devices()[:1]))
        with recording(seen[COMPILE_BOTH]):
            step_compile.compile_train_step(joint, str(folder), "v5e:1x1")
            soft_kl = joint.changed(vae_loss={"alignment_loss": "soft_kl"})
            abstract_joint_job(soft_kl, make_mesh(devices=jax.devices()[:1]))
        with recording(seen[COMPILE_SAMPLER]):
            sampler_compile.compile_sampler(both, str(folder), "v5e:1x1")
    # The training above has no adversary, no frozen networks, no Muon and no alignment: of these it
    # is the step that was compiled.
    seen[TRAIN_GENERATOR] |= {
        key
        for key in seen[COMPILE_GENERATOR]
        if key == "optimizer.momentum" or key.startswith("repa.")
    }
    # And the loop of both is that of the tokenizer.
    seen[TRAIN_BOTH] |= seen[COMPILE_BOTH] | {
        key for key in seen[TRAIN_TOKENIZER] if key.partition(".")[0] in OF_THE_LOOP
    }
    seen[TRAIN_TOKENIZER] |= {
        key for key in seen[COMPILE_TOKENIZER] if key.partition(".")[0] in LOSS_SECTIONS
    }
    return seen


def draw_on_a_page(dit, generator):
    """All that a page does, but for what serves it, which needs gradio."""

    def draw(drawer, settings, *_):
        list(drawer.draw(settings))
        return contextlib.ExitStack()  # something to close

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page_job, "check_gradio", lambda: None)
        patch.setattr(page_job, "open_page", draw)
        with page_job.opened(dit, generator):
            pass


def whole_loss(vae):
    return vae.changed(
        vae_loss={"disc_weight": 0.5, "alignment": "vit", "perceptual_weight": 1.0},
        frozen={"lpips": "", "foundation": ""},
    )


def aligned_jointly(dit, vae, vit):
    """A generator on the images of a tokenizer that trains, by each loss that there is."""
    return dit.changed(
        model={"patch_size": 2},
        data={"source": "digits", "split": "test"},
        tokenizer=dataclasses.asdict(vae.tokenizer),
        vae_loss=dataclasses.asdict(vae.vae_loss),
        frozen={"foundation": vit},
        repa={"features": "computed", "depth": 1, "spatial_norm": "zscore"},
        repae={"weight": 1.5},
    )


@pytest.mark.parametrize("job", JOBS)
def test_the_table_says_what_a_job_reads(recorded, job):
    said = {key for key in KEYS if job in readers(key)}
    read = recorded[job] - (OF_RECORD if job == TRAIN_GENERATOR else set())
    assert read - said == set(), "read, but the table says not"
    assert said - recorded[job] - UNSEEN.get(job, set()) == CACHE, "not read, but the table says so"


def test_a_key_that_a_job_does_not_read_is_refused():
    # These read the most.
    values = {
        "evaluate.metric": "fid",
        "evaluate.measures": ("ifid",),
        "optimizer.name": "muon",
        "optimizer.schedule": "trapezoid",
        "sample.use_ema": True,
        "repa.features": "computed",
        "repa.projector": "mlp",
        "repa.spatial_norm": "zscore",
        "train.spikes": "skip",
        "sample.cfg_scale": 2.0,
        "sample.cfg_schedule": "power_cosine",
    }
    for job in JOBS:
        for key in KEYS:
            solver = next((s for s, keys in READ_BY_SOLVERS.items() if key in keys), "euler")
            source = "parquet" if key == "data.labels" else "tfds"
            alignment = "soft_kl" if key == "vae_loss.soft_kl_temperature" else "vf"
            chosen = {"sample.solver": solver, "data.source": source}
            value = {**values, **chosen, "vae_loss.alignment_loss": alignment}.get
            if job in readers(key) or is_taken(key, job):
                check_given([key], [job], value, CHOICES)
                continue
            with pytest.raises(ValueError, match=rf"config\.{key} is given .* does not read it"):
                check_given([key], [job], value, CHOICES)


@pytest.mark.parametrize(
    ("changes", "unread", "read"),
    [
        ({"optimizer__name": "lion"}, "optimizer.eps", "optimizer.beta1"),
        ({"optimizer__name": "adamw"}, "optimizer.momentum", "optimizer.eps"),
        ({"optimizer__schedule": "constant"}, "optimizer.end_factor", "optimizer.warmup_steps"),
        ({"optimizer__schedule": "cosine"}, "optimizer.decay_steps", "optimizer.end_factor"),
        ({"train__spikes": "off"}, "train.spike_window", "train.max_nonfinite"),
    ],
)
def test_what_another_optimizer_or_schedule_reads_is_refused(changes, unread, read):
    config = tiny.config("digits_dit", **changes)
    check_command_line(config, [read], [TRAIN_GENERATOR], "", CHOICES)
    with pytest.raises(ValueError, match=rf"config\.{unread} is given .* which does not read it"):
        check_command_line(config, [unread], [TRAIN_GENERATOR], "", CHOICES)


@pytest.mark.parametrize("name", ["vf", "pool_align", "cka", "soft_kl"])
def test_what_another_alignment_reads_is_refused(name):
    config = tiny.config("digits_vavae", vae_loss__alignment_loss=name)
    of_vf = [f"vae_loss.{key}" for key in ("distmat_weight", "cos_weight", "reverse_proj")]
    of_vf += ["stages.distmat_margin", "stages.cos_margin"]
    read = {"vf": of_vf, "soft_kl": ["vae_loss.soft_kl_temperature"]}
    for key in (*of_vf, "vae_loss.soft_kl_temperature"):
        if key in read.get(name, ()):
            check_command_line(config, [key], [TRAIN_TOKENIZER], "", CHOICES)
            continue
        told = rf"config\.{key} is given .*alignment_loss is '{name}', which does not read it"
        with pytest.raises(ValueError, match=told):
            check_command_line(config, [key], [TRAIN_TOKENIZER], "", CHOICES)
    for key in ("vae_loss.adaptive_vf", "stages.vf_weight"):
        check_command_line(config, [key], [TRAIN_TOKENIZER], "", CHOICES)


def test_an_option_of_guidance_without_guidance_is_refused():
    """In a sweep, where none of its scales guides."""
    one, some = ({"sample__cfg_scale": 1.0, "sweep__cfg_scale": s} for s in ((1.0,), (1.0, 2.0)))
    for key in ("sample.apg_eta", "sample.cfg_zero_init_steps", "sweep.cfg_schedule"):
        for changes, job in ((one, SWEEP), (some, SAMPLE)):
            if job in readers(key):
                told = rf"config\.{key} is given .*cfg_scale is 1\.0, .* reads it: any but 1\.0"
                with pytest.raises(ValueError, match=told):
                    config = tiny.config("digits_dit", **changes)
                    check_command_line(config, [key], [job], "", CHOICES)
        check_command_line(tiny.config("digits_dit", **some), [key], [SWEEP], "", CHOICES)
    config = tiny.config("digits_dit", sample__cfg_scale=2.0)
    with pytest.raises(ValueError, match=r"is 'constant', .* reads it: 'power_cosine'"):
        check_command_line(config, ["sample.cfg_power"], [SAMPLE], "", CHOICES)


SDE = {"sample.diffusion", "sample.diffusion_norm", "sample.last_step", "sample.last_step_size"}
READ_BY_SOLVERS = {
    "euler": set(),
    "heun3": set(),
    "dopri5": {"sample.rtol", "sample.atol"},
    "ucgm": {"sample.extrapolation", "sample.time_warp"},
    "sde_euler": SDE,
    "sde_heun": SDE,
}


@pytest.mark.parametrize("solver", READ_BY_SOLVERS)
def test_an_option_of_another_solver_is_refused(solver):
    """It used to be ignored. tests/flow/test_solvers.py has what a solver's own options change."""
    config = tiny.config("digits_dit", sample__solver=solver)
    for key in set().union(*READ_BY_SOLVERS.values()):
        if key in READ_BY_SOLVERS[solver]:
            check_command_line(config, [key], [SAMPLE], "", CHOICES)
            continue
        told = (
            rf"{key} is given .* but config\.sample\.solver is '{solver}', which does not read it"
        )
        with pytest.raises(ValueError, match=told):
            check_command_line(config, [key], [SAMPLE], "", CHOICES)


def test_a_sweep_reads_the_options_of_all_the_solvers_it_tries():
    config = tiny.config("digits_dit", sample__solver="ucgm", sweep__solver=("euler", "dopri5"))
    check_command_line(config, ["sample.rtol"], [SWEEP], "", CHOICES)
    with pytest.raises(
        ValueError,
        match=r"time_warp is given .* config\.sweep\.solver is 'euler', 'dopri5', which does not",
    ):
        check_command_line(config, ["sample.time_warp"], [SWEEP], "", CHOICES)
    check_command_line(config, ["sample.time_warp"], [SAMPLE], "", CHOICES)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"data__source": "foldr"}, "value of config.data.source 'foldr'; did you mean 'folder'"),
        ({"evaluate__metric": "FID"}, "'FID'.* Known: fid, digits"),
        ({"sample__solver": "eular"}, "value of config.sample.solver 'eular'"),
        ({"sweep__solver": ("euler", "heun")}, "value of config.sweep.solver 'heun'; .*'heun"),
    ],
)
def test_a_name_that_no_table_has_is_refused_whatever_the_job(changes, told):
    config = tiny.config("digits_dit", **changes)
    with pytest.raises(ValueError, match=told):
        check_command_line(config, [], [TRAIN_GENERATOR], "", CHOICES)


@pytest.mark.parametrize("source", sources.SOURCES)
def test_a_source_of_images_reads_a_key_or_it_is_refused(source, tmp_path, monkeypatch):
    """Of a key that passes, another value opens other images; of one that is refused, the same."""
    opened = []

    class TFDS:
        notes, class_names, num_classes = (), (), 0

        def __init__(self, *what):
            opened.append(what)

        def __len__(self):
            return 2

        def image(self, index):
            if index:
                raise UnreadableImageError(f"record of {opened[-1]}")

    monkeypatch.setattr(sources, "TFDSImages", TFDS)
    whole = io.BytesIO()
    Image.new("RGB", (16, 16)).save(whole, "PNG")
    for name, count in (("a", 2), ("b", 3)):
        contents = [whole.getvalue(), *[b"no image"] * (3 * count - 1)]
        for folder in "cd":
            (tmp_path / name / folder).mkdir(parents=True)
            for i, content in enumerate(contents[:count]):
                (tmp_path / name / folder / f"{i}.png").write_bytes(content)
        for split, rows in (("train", count), ("test", 3 * count)):
            table = pa.table({"image": contents[:rows], "label": [1] * rows})
            pq.write_table(table, tmp_path / name / f"{split}.parquet")
        (tmp_path / "label").write_text("1")
        with tarfile.open(tmp_path / name / "a.tar", "w") as archive:
            for i in range(count):
                archive.add(tmp_path / name / "c" / f"{i}.png", f"{i}.png")
                archive.add(tmp_path / "label", f"{i}.cls")
    config = tiny.config(
        "digits_vavae", data__source=source, data__path=str(tmp_path / "a"), data__split="train"
    )
    others = {
        "data.path": str(tmp_path / "b"),
        "data.split": "test",
        "data.labels": "none",
        "data.tfds_name": "another",
        "data.corrupt": "skip",
        "evaluate.split": "train",
    }

    def images(config, split):
        opened.clear()
        batches = open_image_batches(config, split, 16)
        try:
            batches.read_batch(np.arange(1, 2), np.zeros(1, bool))
            unreadable = None
        except UnreadableImageError as error:
            unreadable = str(error)
        return len(batches), batches.source.num_classes, list(opened), unreadable

    for job in (TRAIN_TOKENIZER, EXTRACT, EVALUATE_TOKENIZER):
        split_key = "evaluate.split" if job == EVALUATE_TOKENIZER else "data.split"
        want = images(config, config.value(split_key))
        for key, other in others.items():
            if job not in readers(key):
                continue
            section, _, name = key.partition(".")
            changed = config.changed(**{section: {name: other}})
            same = images(changed, changed.value(split_key)) == want
            assert is_read(key, [job], changed.value, CHOICES) != same, (job, key)
            if same:
                told = rf"config.{key} is given .* config.data.source is '{source}', which does"
                with pytest.raises(ValueError, match=told):
                    check_command_line(changed, [key], [job], str(tmp_path), CHOICES)


def test_the_digits_metric_reads_no_network(tmp_path):
    """What FRECHET's keys are to the jobs recorded here, which are judged as digits."""
    for key in KEYS:
        for job in (EVALUATE_SAMPLES, EVALUATE_SEEDS, SWEEP, EVALUATOR):
            fid, digits = (
                is_read(key, [job], {"evaluate.metric": m}.get, METRIC) for m in ("fid", "digits")
            )
            assert (fid != digits) == (key in FRECHET and job in readers(key)), (job, key)
    config = tiny.config("digits_dit")
    with pytest.raises(
        ValueError,
        match=r"inception is given .* set config\.evaluate\.metric to what reads it: 'fid'",
    ):
        check_command_line(
            config, ["evaluate.inception"], [EVALUATE_SAMPLES], str(tmp_path), CHOICES
        )
    write_config(config, str(tmp_path))
    check_command_line(config, ["evaluate.inception"], [EVALUATE_SAMPLES], str(tmp_path), CHOICES)
    # A tokenizer's evaluation has one metric.
    check_command_line(config, ["evaluate.inception"], [EVALUATE_TOKENIZER], "", CHOICES)


def test_every_key_has_a_reader_and_every_command_its_jobs():
    assert all(readers(key) for key in KEYS)
    commands = {
        jobs_of(mode, target, kind, evaluates, pictures, seeds, both)
        for mode in MODES
        for target in ("train", "sample")
        for kind in ("lightningdit", "vavae")
        for evaluates in (False, True)
        for pictures in (False, True)
        for seeds in (False, True)
        for both in (False, True)
    }
    assert {job for jobs in commands for job in jobs} == set(JOBS)


def another(key, value):
    """A value as good, of which a run's weights may or may not have their meaning."""
    if key in OTHERS:
        return OTHERS[key]
    if isinstance(value, bool):
        return not value
    if isinstance(value, tuple):
        return (*value[:-1], value[-1] + 1) if value else (8,)
    return value + (1 if isinstance(value, int) else 0.05)


OTHERS = {
    "kind": "vavae",
    "model.variant": "B/2",
    "model.depth": 3,
    "model.hidden_size": 64,
    "model.num_heads": 4,
    "model.patch_size": 2,
    "flow.path": "gvp",
    "flow.prediction": "noise",
    "repa.features": "none",
    "repa.projector": "conv",
    "vae_loss.alignment_loss": "cka",
    "discriminator.norm": "actnorm",
    "vae_loss.disc_weight": 0.0,
    "vae_loss.alignment": "none",
    "stages.vf_weight": (0.0,),
    "train.ema_decay": 0.5,
    "train.keep_every_steps": 4,  # a multiple of train.checkpoint_every_steps
    "train.ema_decays": (0.5,),
    "train.ema_sigmas": (0.1,),
    "train.snapshot_every_steps": 0,  # more needs train.ema_sigmas
    "train.writers": (),
    "train.profile_steps": (1, 1),
    "optimizer.beta1": 0.6,
    "optimizer.beta2": 0.6,
    "optimizer.momentum": 0.6,
}


@pytest.mark.parametrize(
    "job", [TRAIN_GENERATOR, pytest.param(TRAIN_TOKENIZER, marks=pytest.mark.slow)]
)
def test_what_old_weights_have_their_meaning_from_is_compared(job, tmp_path):
    """Of a changed key the description that a workdir is checked by differs, or is the same."""
    mesh, refused = make_mesh(devices=jax.devices()[:1]), "refused before anything is compared"
    if job == TRAIN_GENERATOR:
        path = tiny.write_latents(tmp_path / "latents")
        tiny.write_features(path)
        config = tiny.config(
            "digits_dit",
            data__path=str(path),
            flow__cosine_weight=0.0,
            repa__features="cached",
            repa__depth=1,
        )
    else:
        lpips = tiny.write_network(tmp_path / "lpips", LPIPS, TINY_LPIPS, "lpips")
        foundation = tiny.write_network(tmp_path / "vit", ViT, tiny.VIT, "vit")
        frozen = {"lpips": lpips, "foundation": foundation}
        config = whole_loss(tiny.config("digits_vavae")).changed(frozen=frozen)

    def compared(config):
        try:
            described = run_meta(config, make_job(config, mesh))
        except ValueError:
            return refused
        return {field: described.get(field) for field in MEANING}

    want, kind = compared(config), config.kind
    assert want != refused
    for key in KEYS:
        value = config.value(key)
        if job not in readers(key) or key == "stages.start":
            continue
        if isinstance(value, str) and key not in OTHERS:
            assert meaning_of(key) is None  # a choice or the name of a file
            continue
        other = another(key, value) if key != "kind" else {"lightningdit": "vavae"}.get(kind)
        if other is None:
            continue
        section, _, name = key.rpartition(".")
        changed = (
            config.changed(**{section: {name: other}})
            if section
            else dataclasses.replace(config, **{name: other})
        )
        assert (compared(changed) != want) == (meaning_of(key) is not None), key
