"""How close a reconstruction is to its original: PSNR and SSIM, per image."""

import numpy as np

DATA_RANGE = 255.0
# Wang et al. 2004, sec. III-B and III-C.
WINDOW, SIGMA = 11, 1.5
C1, C2 = (0.01 * DATA_RANGE) ** 2, (0.03 * DATA_RANGE) ** 2


def _check(a: np.ndarray, b: np.ndarray) -> None:
    """Raise ValueError unless both are uint8 [B, H, W, C] of the same shape."""
    for image in (a, b):
        if image.dtype != np.uint8 or image.ndim != 4:
            raise ValueError(
                f"images are {image.dtype} of shape {image.shape}; expected uint8 [B, H, W, C]"
            )
    if a.shape != b.shape:
        raise ValueError(f"images have shapes {a.shape} and {b.shape}; expected the same")


def psnr(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio in dB. a, b: uint8 [B, H, W, C] -> float64 [B].

    10 log10(255² / mean squared error of the image); identical images give inf.
    Raises ValueError for another type or differing shapes.
    """
    _check(a, b)
    error = np.array([np.mean((x.astype(np.float64) - y) ** 2) for x, y in zip(a, b)])
    with np.errstate(divide="ignore"):
        return 10 * np.log10(DATA_RANGE**2 / error)


def _blur(x_HWC: np.ndarray) -> np.ndarray:
    """Gaussian window where it fits wholly. [H, W, C] -> [H - 10, W - 10, C]."""
    weights = np.exp(-0.5 * ((np.arange(WINDOW) - WINDOW // 2) / SIGMA) ** 2)
    weights /= weights.sum()
    height, width = x_HWC.shape[0] - WINDOW + 1, x_HWC.shape[1] - WINDOW + 1
    x_HWC = sum(w * x_HWC[i : i + height] for i, w in enumerate(weights))
    return sum(w * x_HWC[:, i : i + width] for i, w in enumerate(weights))


def _ssim_of_image(x: np.ndarray, y: np.ndarray) -> float:
    """SSIM of one pair of float64 images [H, W, C]."""
    mean_x, mean_y = _blur(x), _blur(y)
    var_x, var_y = _blur(x * x) - mean_x**2, _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + C1) / (mean_x**2 + mean_y**2 + C1)
    structure = (2 * covariance + C2) / (var_x + var_y + C2)
    return float(np.mean(luminance * structure))


def ssim(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Structural similarity in [-1, 1], 1 for identical images. a, b: uint8 [B, H, W, C] -> [B].

    Gaussian window of 11 x 11 with sigma 1.5, K1 = 0.01, K2 = 0.03, data range 255, averaged over
    the positions where the window fits and over channels. Wang et al. 2004; equals scikit-image's
    structural_similarity(gaussian_weights=True, use_sample_covariance=False).
    Raises ValueError for another type, differing shapes, or images smaller than the window.
    """
    _check(a, b)
    if min(a.shape[1:3]) < WINDOW:
        raise ValueError(
            f"images have shape {a.shape}; SSIM needs a height and width of at least {WINDOW}"
        )
    return np.array(
        [_ssim_of_image(x.astype(np.float64), y.astype(np.float64)) for x, y in zip(a, b)]
    )
