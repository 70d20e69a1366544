"""configs/*.yaml of the release: training and sampling of a generator."""

from lightningdit_jax.foreign_names import RELEASE_RENAMED
from lightningdit_jax.release_config.keys import ABSENT, Keys

SECTIONS = ("data", "vae", "model", "train", "optimizer", "transport", "sample")
NEEDED = SECTIONS[:-1]  # by train.py
_PREFIX = "LightningDiT-"
_SOLVERS = ("euler", "midpoint", "heun2", "heun3", "rk4", "dopri5")
_PATHS = {"Linear": "linear", "GVP": "gvp", "VP": "vp"}


def read_generator(keys: Keys) -> None:
    """Asks for every key that train.py and inference.py read."""
    keys.set({"kind": "lightningdit"})
    _weights(keys)
    _data(keys)
    _model(keys)
    _train(keys)
    _transport(keys)
    _sample(keys)


def _weights(keys: Keys) -> None:
    given = keys.value("ckpt_path")
    source = "FILE" if keys.is_placeholder("ckpt_path") or not given else given
    convert = f"python convert_torch_weights.py --src {source} --dst CHECKPOINT"
    keys.implied(
        "ckpt_path",
        f"converted first, {convert} --latent-stats latents_stats.pt, and named by "
        "--config.sample.checkpoint=CHECKPOINT",
    )
    keys.implied(
        "vae.model_name",
        "the tokenizer is a checkpoint of convert_torch_weights.py, --config.sample.tokenizer",
    )
    keys.implied(
        "train.weight_init",
        "converted first (--weights model, which is what the release takes); a run starts from it "
        "by --config.train.init=CHECKPOINT",
    )


def _data(keys: Keys) -> None:
    keys.path("data.data_path", "data.path", "read as it is")
    keys.path("data.fid_reference_file", "evaluate.reference")
    size = keys.number("data.image_size", int, 256)
    ratio = keys.number("vae.downsample_ratio", int, 16)
    if ratio < 1 or size % ratio:
        keys.refused("data.image_size", f"{ratio} does not divide it (vae.downsample_ratio)")
    else:
        why = f"{size} pixels over {ratio} (vae.downsample_ratio)"
        keys.mapped("data.image_size", {"model.input_size": size // ratio}, why)
        keys.implied("vae.downsample_ratio", "in model.input_size")
    why = "the null class is the one after these; the release's sampling has 1000 in its code"
    classes = keys.number("data.num_classes", int, 1000)
    keys.renamed("data.num_classes", int, why="" if classes == 1000 else why)
    keys.implied("data.num_workers", "threads read here, data.num_threads; neither changes a batch")
    why = "sampling here undoes what training did, the release's undoes a norm in any case"
    normed = keys.number("data.latent_norm", bool, False)
    keys.renamed("data.latent_norm", bool, False, "" if normed else why)
    keys.renamed("data.latent_multiplier", float, 0.18215)
    why = "at each checkpoint, as there; the release lacks the function that it calls"
    keys.path("data.valid_path", "data.valid_path", why)


def _model(keys: Keys) -> None:
    kind = keys.value("model.model_type")
    if not isinstance(kind, str) or not kind.startswith(_PREFIX):
        keys.refused("model.model_type", f"expected {_PREFIX}XL/1 and the like")
    else:
        keys.mapped("model.model_type", {"model.variant": kind.removeprefix(_PREFIX)})
    keys.renamed("model.use_qknorm", bool, False)
    keys.renamed("model.use_swiglu", bool, False)
    keys.renamed("model.use_rope", bool, False)
    keys.renamed("model.use_rmsnorm", bool, False)
    keys.renamed("model.wo_shift", bool, False)
    keys.renamed("model.in_chans", int, 4)
    keys.renamed("model.learn_sigma", bool, False)
    for key in ("model.use_checkpoint", "train.use_checkpoint"):
        keys.implied(key, "compute.remat is planned; it changes no result")


def _train(keys: Keys) -> None:
    published = "the 800 epochs are 1,000,000 steps, uniform from 600,000: configs/dit_xl_800ep.py"
    is_published = keys.value("train.max_steps") == 80_000
    keys.renamed("train.max_steps", int, why=published if is_published else "")
    keys.renamed("train.global_batch_size", int)
    keys.renamed("train.global_seed", int, why="the release seeds its sampling alone; other noise")
    for key in ("train.output_dir", "train.exp_name"):
        keys.implied(key, "--workdir; records, checkpoints and samples are in it")
    keys.only(
        "train.ckpt",
        [None],
        "a run goes on from its workdir",
        "the release reads it nowhere; a run goes on from its workdir, or begins from weights by "
        "--config.train.init",
    )
    keys.implied("train.resume", "a run goes on wherever its workdir has a checkpoint")
    keys.renamed("train.log_every", int)
    keys.renamed("train.ckpt_every", int, why="the newest train.keep_checkpoints stay")
    every = keys.settings.get(RELEASE_RENAMED["train.ckpt_every"], 0)
    if "data.valid_path" in keys.settings:
        keys.set({"train.validate_every_steps": every}, "train.ckpt_every")
    keys.renamed("optimizer.lr", float)
    keys.renamed("optimizer.beta2", float)
    keys.renamed("optimizer.max_grad_norm", float, 0.0)
    keys.set({"optimizer.name": "adamw", "optimizer.beta1": 0.9, "optimizer.weight_decay": 0.0})
    keys.set({"train.ema_decay": 0.9999})


def _transport(keys: Keys) -> None:
    path = keys.value("transport.path_type")
    if isinstance(path, str) and path in _PATHS:
        keys.mapped("transport.path_type", {"flow.path": _PATHS[path]})
    else:
        keys.refused("transport.path_type", f"expected one of {', '.join(_PATHS)}")
    prediction = keys.value("transport.prediction")
    if prediction in ("velocity", "noise", "score"):
        keys.mapped("transport.prediction", {"flow.prediction": prediction})
    else:
        keys.refused("transport.prediction", "expected velocity, noise or score")
    is_velocity = prediction == "velocity"
    weight = keys.value("transport.loss_weight")
    if is_velocity and weight not in (None, ABSENT):
        keys.implied("transport.loss_weight", "the loss of a velocity has no weight there either")
    elif weight in (None, ABSENT, "velocity", "likelihood"):
        keys.mapped("transport.loss_weight", {"flow.loss_weight": _weight(weight)})
    else:
        keys.refused("transport.loss_weight", "expected null, velocity or likelihood")
    stable = is_velocity and path in ("Linear", "GVP")
    for key in ("transport.train_eps", "transport.sample_eps"):
        if stable:
            keys.implied(key, "0 for this path and prediction, whatever it says, there and here")
        else:
            derived = "follows from path and prediction, as there; leave it null"
            keys.only(key, [None], "follows from path and prediction, as there", derived)
    cosine = keys.number("transport.use_cosine_loss", bool, False)
    why = "the logged loss omits it there, here it is a term of its own" if cosine else ""
    if cosine and not is_velocity:
        cosine, why = False, "only a velocity has it, there too"
    keys.mapped("transport.use_cosine_loss", {"flow.cosine_weight": float(cosine)}, why)
    lognorm = keys.number("transport.use_lognorm", bool, False)
    drawn = "logit_normal" if lognorm else "uniform"
    keys.mapped("transport.use_lognorm", {"flow.timesteps": drawn})


def _weight(given: object) -> str:
    return given if isinstance(given, str) else "none"


def _sample(keys: Keys) -> None:
    keys.set({"sample.cfg_channels": 3})
    if "sample" not in keys.sections:
        return
    keys.only(
        "sample.mode",
        ["ODE"],
        "the solver is of an ODE",
        "expected ODE; SDE, which the release refuses too, is sample.solver=sde_euler here",
    )
    if keys.value("sample.sampling_method") in _SOLVERS:
        keys.renamed("sample.sampling_method", str)
    elif "sample.sampling_method" in keys:
        keys.refused("sample.sampling_method", f"expected one of {', '.join(_SOLVERS)}")
    keys.renamed("sample.atol", float)
    keys.renamed("sample.rtol", float)
    keys.only(
        "sample.reverse",
        [False],
        "from noise to data",
        "images are drawn from noise to data; the release fails on the way back",
    )
    keys.only("sample.likelihood", [False], "images are drawn", "the release reads it nowhere")
    why = "points of the grid, one evaluation fewer, as there"
    keys.renamed("sample.num_sampling_steps", int, why=why)
    keys.renamed("sample.cfg_scale", float, why="of the first 3 channels (sample.cfg_channels)")
    keys.renamed("sample.cfg_interval_start", float, 0.0)
    keys.renamed("sample.timestep_shift", float, 0.0)
    keys.implied("sample.per_proc_batch_size", "sample.batch_size is planned; it changes no result")
    keys.renamed("sample.fid_num", int, why="exactly so many; the release fills its last batch")
