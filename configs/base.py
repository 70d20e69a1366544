"""Every configuration key, its default, its unit and where it comes from. Other configs change it.

The defaults are the published LightningDiT recipe on ImageNet 256x256 (Yao et al., CVPR 2025,
arXiv 2501.01423) and the VA-VAE f16d32 tokenizer. A config file may set keys that a job does not
need; on its command line they are refused (lightningdit_jax/config_jobs.py says which job reads
which). Modes that load a checkpoint take its model and latents from there. A key that is not listed
here, or in lightningdit_jax/sampling_options.py, is an error.

What is said of a key stands above its line and behind it, so --help=KEY shows it.
"""

import dataclasses

from ml_collections import ConfigDict
from ml_collections.config_dict import FieldReference, placeholder

from lightningdit_jax.sampling_options import SamplingOptions


def auto() -> FieldReference:
    """A number, or "auto": chosen for the devices that are there, see docs/planning.md."""
    return FieldReference("auto", field_type=object)


def number_or_word(default: float) -> FieldReference:
    """A number that a word may stand for."""
    return FieldReference(default, field_type=object)


def get_config() -> ConfigDict:
    """The configuration that all others start from."""
    c = ConfigDict()
    c.kind = "lightningdit"  # what is trained: "lightningdit" (generator) or "vavae" (tokenizer)
    c.seed = 0  # below 2**32; every random draw is a function of (seed, step or sample index)

    c.mesh = ConfigDict()  # device mesh; one axis may be -1 and takes what is left
    c.mesh.data = auto()  # pure data parallelism
    c.mesh.fsdp = auto()  # data parallelism with parameters and optimizer state sharded
    c.mesh.tensor = auto()  # attention heads and MLP width sharded; by itself 1
    c.mesh.dcn_data = auto()  # TPU slices, or nodes of several devices, that "data" spans

    c.compute = ConfigDict()
    c.compute.dtype = "bfloat16"  # of matmuls; parameters, optimizer, norms, losses stay float32
    # "none", "dots", "attention_mlp", "attention" or "block", each of which keeps less; of a
    # tokenizer "none", "conv" (norms again, no convolution) or "block"
    c.compute.remat = "auto"
    c.compute.on_oom = "retry"  # out of memory, training takes the next plan; "stop" names it
    c.compute.scan_unroll = 0  # of a generator's blocks, an iteration; 0 is all on GPUs, else 1
    # Of a generator: "xla", "cudnn" (NVIDIA GPUs), "pallas" (TPUs; both bfloat16), or "auto"
    c.compute.attention = "auto"
    # Of a generator's blocks in training: in "dtype", or of "float8" numbers, docs/training.md
    c.compute.products = "dtype"
    c.compute.compilation_cache = ""  # folder of compiled programs, local or gs://; empty is none
    # "quick": a train step for TPUs compiles in a fraction of the time and is slower; for reports
    # of memory and for tests, docs/tokenizer_step.md
    c.compute.compile_effort = "full"

    c.model = ConfigDict()  # LightningDiT; sec. 4 of the paper, the release's yaml
    c.model.variant = "XL/1"  # sets depth, hidden_size, num_heads and patch_size
    c.model.depth = placeholder(int)  # these four override the variant
    c.model.hidden_size = placeholder(int)
    c.model.num_heads = placeholder(int)
    c.model.patch_size = placeholder(int)
    c.model.input_size = 16  # height and width of the latents
    c.model.in_channels = 32  # channels of the latents
    c.model.num_classes = 1000
    c.model.mlp_ratio = 4.0  # MLP width over hidden_size; SwiGLU takes two thirds of it
    c.model.class_dropout_prob = 0.1  # share of labels replaced by the null class in training
    c.model.learn_sigma = False  # doubled output channels, second half dropped (DiT)
    c.model.use_qknorm = False  # cures loss spikes on long runs, costs FID (release, issue 23)
    c.model.use_swiglu = True
    c.model.use_rope = True
    c.model.use_rmsnorm = True
    c.model.wo_shift = False  # adaLN without its shift
    # A second head stands after this block, for sample.ig_scale (arXiv 2512.24176: 8); 0 is none
    c.model.aux_head_depth = 0

    c.tokenizer = ConfigDict()  # VA-VAE; Rombach et al. 2022, release's vavae/configs
    c.tokenizer.resolution = 256  # of the images it trains on; decides where attention sits
    c.tokenizer.in_channels = 3
    c.tokenizer.ch = 128  # channels of the first level
    c.tokenizer.ch_mult = (1, 1, 2, 2, 4)  # per level; f = 2 ** (levels - 1)
    c.tokenizer.num_res_blocks = 2
    c.tokenizer.encoder_attn_resolutions = (16,)
    c.tokenizer.decoder_attn_resolutions = (16,)
    c.tokenizer.z_channels = 32
    c.tokenizer.embed_dim = 32  # d: channels of the latents

    c.data = ConfigDict()
    # Or images: "digits", "folder", "parquet", "tfds", "webdataset", docs/data.md
    c.data.source = "latents"
    # Folder of latent shards, of class folders, of images; one image; a parquet or tar file, a
    # folder of them or a pattern; TFDS's data_dir
    c.data.path = ""
    c.data.split = "train"  # of digits ("train", "test", "all"), of parquet folders and of TFDS
    # Of a folder of images, a file of `file,label` lines; "none": all images are one class. "" is
    # what the source says: class folders, or labels.csv or labels.txt where there are none
    c.data.labels = ""
    # Of train.validate_every_steps: held-out latents, or of a tokenizer images, as data.path (of
    # digits and of TFDS a folder)
    c.data.valid_path = ""
    c.data.valid_split = ""  # instead, of digits, parquet folders and TFDS, another split
    c.data.tfds_name = "imagenet2012"
    c.data.augment = "random_crop"  # of images in training: "random_crop" or "center_crop"
    c.data.flip = True  # horizontal flip with probability 1/2
    c.data.latent_norm = True  # (x - mean) / std per channel
    c.data.latent_multiplier = 1.0  # 0.18215 for the Stable Diffusion VAE
    # Where train.init's latents are scaled otherwise than these: "checkpoint" goes on with its
    # statistics and multiplier, "data" takes those of the data; "" is refused
    c.data.stats = ""
    c.data.resident = False  # all latents in memory (84 GB for ImageNet), for storage that is slow
    c.data.corrupt = "stop"  # at an image that cannot be decoded, or "skip": go on without it
    c.data.num_threads = 8  # decoding and reading threads
    c.data.num_workers = 0  # processes that read batches, num_threads each; 0: only this one
    c.data.prefetch_batches = 8  # at least num_threads, or some of them idle

    c.optimizer = ConfigDict()
    # Or "lion", and of generators "muon" or "muon_all", docs/training.md; not within a run
    c.optimizer.name = "adamw"
    c.optimizer.learning_rate = 2e-4  # the highest, never scaled by the batch
    # Or "linear", "cosine" (both fall from the warm-up to the end of the run) or "trapezoid" (falls
    # at its end alone); may change within a run
    c.optimizer.schedule = "constant"
    c.optimizer.warmup_steps = 0  # linear, counted from the run's first step
    c.optimizer.decay_steps = 0  # of a trapezoid: the last so many steps of train.num_steps
    c.optimizer.end_factor = 0.0  # of the highest rate, at the end of what falls
    c.optimizer.beta1 = 0.9
    c.optimizer.beta2 = 0.95
    c.optimizer.eps = 1e-8  # of Adam
    c.optimizer.momentum = 0.95  # of Muon, whose Adam has the betas
    c.optimizer.weight_decay = 0.0  # decoupled; with Muon of its matrices alone
    c.optimizer.max_grad_norm = 0.0  # global norm; 0 is off, as published; may change within a run
    # Patterns of parameters' names, docs/training.md; both may change within a run.
    c.optimizer.freeze = ()  # These stay as they are, such as ("blocks/*",)
    # Patterns too: of the rate, the first that matches; may change within a run.
    c.optimizer.rate_factors = ()  # ("y_embedder/*=10",)

    c.flow = ConfigDict()  # training of the generator
    c.flow.path = "linear"  # from noise to data; "gvp" and "vp" as in SiT, arXiv 2401.08740
    c.flow.prediction = "velocity"  # of the model; or "noise", "score", "data"
    # The squared error is of the prediction; or of the "velocity", "noise" or "data" that follows
    # from it (arXiv 2511.13720); or, of noise and score, has the weight of the "likelihood"
    c.flow.loss_weight = "none"
    c.flow.timesteps = "logit_normal"  # or "uniform"
    # t -> s t / (1 + (s - 1) t) of those; 0 is off. "dimension": s = sqrt(4096 / numbers of a
    # latent), arXiv 2510.11690
    c.flow.timestep_shift = number_or_word(0.0)
    c.flow.logit_mean = 0.0
    c.flow.logit_std = 1.0
    c.flow.uniform_from_step = -1  # step at which timesteps become uniform; -1 is never
    # Of 1 - cos(velocity, target) beside the squared error of velocities; 0 where that is of others
    c.flow.cosine_weight = 1.0
    c.flow.aux_loss_weight = 0.5  # of the second head's squared error; arXiv 2512.24176

    # Tokens aligned with a vision model's features of the image: REPA (arXiv 2410.06940), iREPA
    # (arXiv 2512.10794), docs/training.md
    c.repa = ConfigDict()
    # Or "cached", as --mode=extract has written them (extract.features), or "computed" in the step
    # by frozen.foundation
    c.repa.features = "none"
    # Folder of the cached features, empty is data.path/features; or the images to compute them of
    c.repa.path = ""
    # The same of the held-out latents, for valid/repa_loss; empty is data.valid_path/features
    c.repa.valid_path = ""
    c.repa.depth = 8  # tokens after this block are aligned; of L and XL, of B 4
    c.repa.weight = 0.5  # of minus the cosine similarity in the loss; may change within a run
    c.repa.projector = "mlp"  # from tokens to features; or "conv", 3x3 as in iREPA
    c.repa.projector_dim = 2048  # hidden width of the MLP
    # Of the features, over an image's patches: "zscore" of iREPA, minus zscore_alpha times the mean
    c.repa.spatial_norm = "none"  # and over the deviation
    c.repa.zscore_alpha = 0.6  # of the authors' code for latents

    # The tokenizer trains beside its generator, which is trained on images then: REPA-E (arXiv
    # 2504.10483), docs/training.md
    c.repae = ConfigDict()
    # Of the alignment in the loss of the tokenizer, 1.5 as published; repa.weight is that of the
    # generator. May change within a run; 0 is off, and the generator trains on extracted latents
    c.repae.weight = 0.0
    # Checkpoint of the tokenizer that a new run begins from, or hf://OWNER/NAME; "" is a fresh one
    c.repae.init = ""
    c.repae.bn_momentum = 0.1  # of the batch norm of latents, in the place of latents_stats

    c.vae_loss = ConfigDict()  # training of the tokenizer; a weight of 0 leaves its term out
    c.vae_loss.reduction = "sum"  # of L1, LPIPS and KL over an image; "mean" is "pp_style"
    c.vae_loss.logvar = 0.0  # log variance of the likelihood, never trained
    c.vae_loss.pixel_weight = 1.0  # L1
    c.vae_loss.perceptual_weight = 1.0  # LPIPS, needs frozen.lpips
    c.vae_loss.kl_weight = 1e-6
    # Variance expansion, arXiv 2603.21085: 0.1 there, in place of the KL, docs/alignment.md
    c.vae_loss.ve_weight = 0.0
    c.vae_loss.magnitude_weight = 0.0  # of what keeps such latents small; 1e-6 there
    c.vae_loss.disc_weight = 0.5  # adversary
    c.vae_loss.adaptive_disc = True  # disc_weight times the ratio of gradients at the last layer
    c.vae_loss.disc_loss = "hinge"  # of the discriminator: "hinge" or "vanilla"
    c.vae_loss.alignment = "dinov2"  # a kind of docs/alignment.md ("mae", "dinov3", ...), or "none"
    # VA-VAE's, "vf"; or of features pooled over an image (arXiv 2609.39657), "pool_align", "cka" or
    c.vae_loss.alignment_loss = "vf"  # "soft_kl", docs/alignment.md
    c.vae_loss.soft_kl_temperature = 0.1  # of the similarities of images
    c.vae_loss.adaptive_vf = True  # vf_weight times the ratio of gradients at the encoder's end
    c.vae_loss.distmat_weight = 1.0  # of the distance matrix within "vf"
    c.vae_loss.cos_weight = 1.0  # of the cosine similarity within "vf"
    c.vae_loss.reverse_proj = True  # of "vf": project latents to features; False: the other way

    c.stages = ConfigDict()  # what changes within one run of the tokenizer, a value a stage
    c.stages.start = (0,)  # training step at which each stage begins
    c.stages.disc_start = (5001,)  # optimizer steps from there, two a training step
    c.stages.vf_weight = (0.1,)  # of the alignment, needs frozen.foundation; of the pooled ones 10
    c.stages.distmat_margin = (0.25,)  # both margins are of "vf"
    c.stages.cos_margin = (0.5,)

    c.discriminator = ConfigDict()  # PatchGAN; Isola et al. 2017
    c.discriminator.ndf = 64  # channels of the first layer
    c.discriminator.num_layers = 3
    c.discriminator.norm = "batchnorm"  # or "actnorm"
    c.discriminator.stat_groups = 1  # parts of the batch normalized apart; the release's: 32

    c.frozen = ConfigDict()  # converted checkpoints that the losses need, or hf://OWNER/NAME
    c.frozen.lpips = ""
    c.frozen.foundation = ""  # of a generator where repa.features is "computed"
    # Sees [-1, 1] as in the release; or, with its own mean and deviation, what it was "trained" on
    c.frozen.foundation_normalize = "parity"

    c.train = ConfigDict()
    # A checkpoint, a workdir or hf://OWNER/NAME that a new run takes its weights from,
    # docs/training.md.
    c.train.init = ""
    c.train.init_weights = "ema"  # averaged ones, or "params"; where there is one kind, that one
    c.train.init_labels = ""  # the source's class for each class here: "207,cat,null,fresh"
    c.train.init_exclude = ()  # patterns of names of parameters that start fresh all the same
    c.train.num_steps = 80_000
    c.train.batch_size = 1024  # global
    c.train.accumulate_steps = auto()  # parts of the batch computed one after another, less memory
    c.train.ema_decay = 0.9999  # 0 keeps no average; set later, it starts from the weights
    c.train.ema_decays = ()  # of further averages, such as (0.999,), for sample.ema_decay
    # Widths of power-function averages, relative to the steps so far, for sample.ema_sigma;
    c.train.ema_sigmas = ()  # (0.05, 0.1) as published, arXiv 2312.02696
    # Keeps them in WORKDIR/snapshots, for averages of any width after training, docs/training.md;
    c.train.snapshot_every_steps = 0  # and at the end; 0 is never
    c.train.log_every_steps = 100
    c.train.checkpoint_every_steps = 20_000
    c.train.keep_checkpoints = 2  # the newest; older ones are deleted
    c.train.keep_every_steps = 0  # those of every so many steps stay too; 0 is none
    c.train.evaluate_every_steps = 0  # and at the end; 0 is never
    c.train.validate_every_steps = 0  # the loss on held-out data, and at the end; 0 is never
    c.train.validate_examples = 10_000  # at most: the first of the held-out ones
    # Of an evaluation, such as "fid" or "valid/ema_mse": the best is kept in WORKDIR/best
    c.train.best_metric = ""
    c.train.nonfinite = "stop"  # on a NaN or infinity: "stop", "skip" the step, or "rollback"
    c.train.max_nonfinite = 10  # steps skipped or rolled back before the run stops all the same
    # Steps whose loss or gradient is far above the median of those before, docs/training.md.
    c.train.spikes = "off"  # "skip" them, or "rollback" to the checkpoint before, once to each
    c.train.spike_window = 64  # steps that the median is of; no verdict before half of them
    c.train.spike_factor = 6.0  # robust deviations above it, of logarithms; at least half as much
    c.train.max_spikes = 100  # steps skipped or rolled back before the run stops all the same
    # Where records and pictures go besides metrics.jsonl: "tensorboard", "wandb", "mlflow"
    c.train.writers = ("tensorboard",)
    # WORKDIR/pictures: samples of fixed seeds and labels, which need sample.tokenizer, or of a
    c.train.picture_every_steps = 0  # tokenizer reconstructions; and at the end; 0 is never
    c.train.profile_steps = ()  # first and last step, such as (100, 104), traced for XProf

    # Solver and guidance, which ldj.generate takes too: lightningdit_jax/sampling_options.py.
    c.sample = ConfigDict(dataclasses.asdict(SamplingOptions()))
    c.sample.cfg_scale = 10.0  # guidance and shift as published, sec. 5.1 of the paper
    c.sample.cfg_interval_start = 0.10
    c.sample.timestep_shift = number_or_word(0.3)
    c.sample.checkpoint = ""  # of the generator, or hf://OWNER/NAME; empty: the workdir's newest
    c.sample.tokenizer = ""  # checkpoint that decodes the latents, or hf://OWNER/NAME
    # Worse generator to guide against (autoguidance), or hf://OWNER/NAME
    c.sample.weak_checkpoint = ""
    c.sample.num_samples = 50_000
    c.sample.batch_size = auto()  # global; changes no result
    c.sample.decode_batch_size = auto()  # images that a device decodes at once; changes no result
    c.sample.output = "npz"  # "npz", "png" or "both"
    # "random", "balanced", or classes such as "207,387", "cat,dog" or 'goldfish,"tench, Tinca
    # tinca"', by number or by name
    c.sample.labels = "random"
    c.sample.use_ema = True
    c.sample.ema_decay = 0.0  # one of train.ema_decays; 0 is the average of train.ema_decay
    # Relative width of an average that is made of those that the run kept, docs/training.md; at
    c.sample.ema_sigma = 0.0  # most 0.28; 0 takes one that was kept, by ema_decay

    c.sweep = ConfigDict()  # --mode=sweep: values to try, in every combination; () keeps sample's
    c.sweep.num_samples = 10_000
    # Every row is drawn with each, and has means and error bars, docs/evaluation.md; () is `seed`
    c.sweep.seeds = ()
    c.sweep.solver = ()
    c.sweep.num_steps = ()
    c.sweep.ema_sigma = ()
    c.sweep.cfg_scale = ()
    c.sweep.cfg_interval_start = ()
    c.sweep.cfg_schedule = ()
    c.sweep.cfg_zero_init_steps = ()
    c.sweep.apg_eta = ()
    c.sweep.apg_norm_threshold = ()
    c.sweep.ig_scale = ()
    c.sweep.ig_interval_end = ()
    c.sweep.timestep_shift = ()

    c.page = ConfigDict()  # --mode=page: draws by hand, in a browser of this machine
    c.page.port = 7860  # 0 is any that is free

    c.extract = ConfigDict()  # latents of every image of data.source
    c.extract.path = ""  # output folder; empty is WORKDIR/latents
    c.extract.checkpoint = ""  # of the tokenizer, or hf://OWNER/NAME; empty: the workdir's newest
    c.extract.resolution = 0  # of the images, in evaluation too; 0 is that of the tokenizer
    c.extract.batch_size = 64  # global
    c.extract.shard_size = 10_000  # images per file
    c.extract.dtype = "float32"  # as published, or half the bytes: "bfloat16", "float16"
    # Converted vision model: its patch features are written too, into path/features, for
    # repa.features; 393 kB an image and its mirror image each at 16x16 patches of DINOv2-B
    c.extract.features = ""
    c.extract.features_grid = 0  # patches along a side; 0 is the latents' side
    c.extract.features_dtype = "float16"  # or "bfloat16", "float32"
    c.extract.stats_images = 0  # images that the statistics are of; 0 is all, the release's 10,000

    c.evaluate = ConfigDict()
    c.evaluate.metric = "fid"  # of a generator: "fid", or "digits" (recognized by a classifier)
    c.evaluate.split = "test"  # images a tokenizer is evaluated on, of digits and of TFDS
    c.evaluate.samples = ""  # .npz file, or folder of pictures; empty: those in WORKDIR
    c.evaluate.num_images = 50_000  # at most
    c.evaluate.train_samples = 10_000  # drawn at each evaluation within a generator's training
    # Converted LPIPS, or hf://OWNER/NAME; without it a tokenizer's LPIPS is left out
    c.evaluate.lpips = ""
    c.evaluate.inception = ""  # converted Inception network or hf://OWNER/NAME, for rFID and FID
    # Converted networks (Inception, DINOv2, MAE ...) or hf://OWNER/NAME, in each of which Fréchet
    # distance, KID, MIND, density and coverage are taken, docs/evaluation.md; of a tokenizer rFD
    c.evaluate.networks = ()
    c.evaluate.reference = ""  # ADM's reference file, or of scripts/reference_statistics.py
    c.evaluate.batch_size = 64  # global
    # Of a tokenizer, beside reconstruction: "ifid", "continuity", "noise", "spectrum", "structure",
    c.evaluate.measures = ()  # "probe", "evenness", docs/evaluation.md
    # Of "ifid": the folder of this tokenizer's latents in which neighbors are sought, as published
    c.evaluate.ifid_latents = ""  # those of the training set; empty: among the images themselves
    # One of so many nearest is drawn, as by the authors' code of arXiv 2603.05630; 1 is the nearest
    c.evaluate.ifid_neighbors = 10
    # Of a generator: sample.num_samples drawn with each, judged, and not kept; error bars are over
    # these seeds, docs/evaluation.md. () judges the samples of a file
    c.evaluate.seeds = ()
    # Parts of the samples left out in turn, which gives every number a standard error, and FID one
    # for infinitely many samples; 50 is enough, 0 is none
    c.evaluate.jackknife_blocks = 0

    c.lock()
    return c
