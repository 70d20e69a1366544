"""Network and metrics against pytorch-fid and torch-fidelity, on random weights.

Needs `pip install -e '.[parity]'`. Nothing is downloaded: both get the weights of `draw_weights`.
"""

import importlib.util

import jax
import numpy as np
import pytest
from flax import nnx

from lightningdit_jax.convert.convert import params_from_torch, torch_shapes
from lightningdit_jax.evaluation import mind as mind_module
from lightningdit_jax.evaluation.density_coverage import density_coverage
from lightningdit_jax.evaluation.frechet import Moments, frechet_distance
from lightningdit_jax.evaluation.inception_score import inception_score
from lightningdit_jax.evaluation.mmd import kid
from lightningdit_jax.evaluation.precision_recall import precision_recall
from lightningdit_jax.models.inception import Inception, InceptionConfig
from tests import golden
from tests.declared_operators import import_torchvision
from tests.models.inception_weights import draw_weights

pytestmark = pytest.mark.slow
# Float32 sums in another order; 4e-6 is the most that was seen, on features of up to 2.6.
TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}


def need(name):
    """A module of the extra [parity]."""
    if importlib.util.find_spec("torchvision") is not None:
        import_torchvision()
    for package in ("torch", "torchvision"):
        _package(package)
    return _package(name)


def _package(name):
    return pytest.importorskip(name, reason=f"{name} is not installed: pip install -e '.[parity]'")


@pytest.fixture(scope="module")
def weights():
    return draw_weights(torch_shapes("inception", InceptionConfig()))


@pytest.fixture(scope="module")
def network(weights):
    config, params = params_from_torch("inception", weights)
    graphdef = nnx.graphdef(nnx.eval_shape(lambda: Inception(config, rngs=nnx.Rngs(0))))
    run = jax.jit(lambda p, x: nnx.merge(graphdef, p)(x))
    return lambda images: run(params, images)


def state_dict(torch, weights, model):
    """The drawn weights, and the model's own count of batches, which nothing reads."""
    counts = {k: v for k, v in model.state_dict().items() if k.endswith("num_batches_tracked")}
    return {k: torch.from_numpy(v) for k, v in weights.items()} | counts


def test_features_of_torch_fidelity(network, weights, tmp_path):
    torch, module = need("torch"), need("torch_fidelity.feature_extractor_inceptionv3")
    path = tmp_path / "weights.pth"
    torch.save({k: torch.from_numpy(v) for k, v in weights.items()}, path)
    names = ["2048", "logits_unbiased"]
    with pytest.MonkeyPatch.context() as patch:
        # A file without the counts of batches is as good.
        load = module.FeatureExtractorInceptionV3.load_state_dict
        patch.setattr(
            module.FeatureExtractorInceptionV3,
            "load_state_dict",
            lambda self, state: load(self, state, strict=False),
        )
        theirs = module.FeatureExtractorInceptionV3("drawn", names, str(path))
    spatial = []
    theirs.Mixed_6d.branch1x1.register_forward_hook(lambda *call: spatial.append(call[-1]))
    # Both enlarged and reduced by the resize of TensorFlow 1, and of no square shape.
    for shape in ((2, 64, 96, 3), (2, 320, 300, 3)):
        images = np.random.default_rng(shape[1]).integers(0, 256, shape, np.uint8)
        with torch.no_grad():
            pool, logits = theirs(torch.from_numpy(golden.to_nchw(images).copy()))
        got = network(images)
        golden.assert_close(got.pool, pool.numpy(), TOLERANCE)
        golden.assert_close(got.logits, logits.numpy(), TOLERANCE)
        want = golden.to_nhwc(spatial.pop().numpy())[..., :7].reshape(2, -1)
        golden.assert_close(got.spatial, want, TOLERANCE)


def test_features_of_pytorch_fid(network, weights, monkeypatch):
    """On images that need no resize, where pytorch-fid's differs from TensorFlow's."""
    torch, module = need("torch"), need("pytorch_fid.inception")
    monkeypatch.setattr(module, "load_state_dict_from_url", lambda *_, **__: {})
    monkeypatch.setattr(
        need("torchvision").models.Inception3, "load_state_dict", lambda self, state: None
    )
    whole = module.fid_inception_v3()
    monkeypatch.undo()
    whole.load_state_dict(state_dict(torch, weights, whole))
    monkeypatch.setattr(module, "fid_inception_v3", lambda: whole)
    theirs = module.InceptionV3(resize_input=False, normalize_input=False).eval()
    images = np.random.default_rng(0).integers(0, 256, (2, 299, 299, 3), np.uint8)
    scaled = (golden.to_nchw(images).astype(np.float32) - 128) / 128
    with torch.no_grad():
        want = theirs(torch.from_numpy(scaled))[0][:, :, 0, 0]
    golden.assert_close(network(images).pool, want.numpy(), TOLERANCE)


@pytest.fixture(scope="module")
def features():
    """Of two sets, correlated and not negative, as Inception's are."""
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(20, 64)).astype(np.float32)
    sets = (rng.normal(shift, 1, (count, 20)) @ mixing for shift, count in ((0, 700), (0.2, 500)))
    return [np.maximum(x, 0).astype(np.float32) for x in sets]


def test_frechet_distance_of_both(features):
    got = frechet_distance(*(part for x in features for part in Moments.of(x).gaussian))
    theirs = need("torch_fidelity.metric_fid")
    from torch import from_numpy

    statistics = [theirs.fid_features_to_statistics(from_numpy(x)) for x in features]
    for pair in statistics:
        pair["mu"] = pair["mu"].astype(np.float64)
    want = theirs.fid_statistics_to_metric(*statistics, verbose=False)
    assert got == pytest.approx(want["frechet_inception_distance"], rel=1e-5)
    theirs = need("pytorch_fid.fid_score")
    want = theirs.calculate_frechet_distance(
        *(part for x in features for part in (x.mean(0), np.cov(x, rowvar=False)))
    )
    assert got == pytest.approx(want, rel=1e-5)


def test_inception_score_of_torch_fidelity(features):
    torch, theirs = need("torch"), need("torch_fidelity.metric_isc")
    logits = torch.from_numpy(features[0])
    for splits in (1, 7):
        want = theirs.isc_features_to_metric(logits, splits=splits, shuffle=False)
        got = inception_score(features[0], split_size=700 // splits)
        assert got == pytest.approx(want["inception_score_mean"], rel=1e-10)


def test_kid_of_torch_fidelity(features):
    """Of one subset that is the whole, where no chance is left."""
    torch, theirs = need("torch"), need("torch_fidelity.metric_kid")
    samples, reference = features[0][:500], features[1]
    options = {"kid_degree": 3, "kid_gamma": None, "kid_coef0": 1, "rng_seed": 0, "verbose": False}
    want = theirs.kid_features_to_metric(
        *map(torch.from_numpy, (samples, reference)),
        kid_subsets=1,
        kid_subset_size=500,
        **options,
    )
    want = want["kernel_inception_distance_mean"]
    assert kid(reference, samples).value == pytest.approx(want, rel=1e-5)


def test_mind_of_torch_fidelity(features, monkeypatch):
    """Along its directions; releases up to 0.4 have no MIND."""
    torch, theirs = need("torch"), need("torch_fidelity.metric_mind")
    drawn = torch.randn(1000, 64, generator=torch.Generator().manual_seed(2020)).numpy()
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    monkeypatch.setattr(mind_module, "_directions", lambda dim: iter(np.split(drawn, 20)))
    samples, reference = features[0][:500], features[1]
    want = theirs.mind_features_to_metric(
        *map(torch.from_numpy, (samples, reference)),
        mind_num_projections=1000,
        rng_seed=2020,
        cuda=False,
        verbose=False,
    )
    want = want["monge_inception_distance"]
    assert mind_module.mind(reference, samples).value == pytest.approx(want, rel=1e-5)


def test_density_and_coverage_of_prdc(features):
    theirs = _package("prdc")
    samples, reference = features
    want = theirs.compute_prdc(reference, samples, nearest_k=5)
    density, coverage = density_coverage(reference, samples)
    assert density.value == pytest.approx(want["density"], abs=1 / len(samples))
    assert coverage.value == pytest.approx(want["coverage"], abs=1 / len(reference))


def test_precision_and_recall_of_torch_fidelity(features):
    torch, theirs = need("torch"), need("torch_fidelity.metric_prc")
    real, samples = features
    want = theirs.prc_features_to_metric(
        torch.from_numpy(samples), torch.from_numpy(real), verbose=False
    )
    got = precision_recall(real, samples)
    assert 0.3 < got.precision < 1 and 0.3 < got.recall < 1
    assert got.precision == pytest.approx(want["precision"], abs=1.5 / len(samples))
    assert got.recall == pytest.approx(want["recall"], abs=1.5 / len(real))
