"""The torch references: how they are imported, made random, and compared. Skips where torch is not installed.

On Python 3.12 and later the test environment has no torch (see pyproject.toml), and a module that imports this one is
skipped, which pytest's summary says.
"""

import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the parity extra is not installed (Python 3.12 and later)")


def _import_torchvision():
    # The wheel on PyPI is built for CUDA: its operators do not load beside a torch for CPUs, and the import fails for
    # want of two schemas that no video model uses.
    try:
        import torchvision.models.video.swin_transformer as swin
    except RuntimeError:
        global _library
        _library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            _library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision.models.video.swin_transformer as swin
    return swin


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # theirs, at import
    import monai.networks.nets as monai_nets  # noqa: F401

    torchvision_swin = _import_torchvision()

torch.set_num_threads(1)  # pytest runs a worker on every core


def randomised(module, seed=0):
    """Fill every parameter and buffer of a torch module with values that leave nothing at its identity.

    Fresh biases, norms and tables are 0 or 1 and hide errors. Variances stay positive, counts stay whole, and kernels
    keep the scale of their activations.
    """
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if not value.is_floating_point():
                if name.endswith("num_batches_tracked"):
                    value.fill_(int(rng.integers(1, 1000)))
                continue
            if name.endswith("running_var") or ("norm" in name and name.endswith("weight") and value.ndim == 1):
                drawn = rng.uniform(0.5, 1.5, value.shape)
            elif value.ndim > 1 and name.endswith("weight"):
                drawn = rng.normal(size=value.shape) / np.sqrt(np.prod(value.shape[1:]))
            else:
                drawn = rng.normal(size=value.shape) * 0.3
            value.copy_(torch.from_numpy(np.asarray(drawn, np.float32)))
    return module.eval()


def state_dict(module):
    """Return a torch module's tensors as NumPy arrays."""
    return {k: v.detach().numpy().copy() for k, v in module.state_dict().items()}


def volumes(*shape, seed=1):
    """Return a volume [b, d, h, w, c] of noise as NumPy and as the torch tensor [b, c, d, h, w]."""
    x = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return x, torch.from_numpy(np.ascontiguousarray(np.moveaxis(x, -1, 1)))


def largest_difference(ours, theirs):
    """Return the largest absolute difference over the scale (largest absolute value) of the reference."""
    theirs = theirs.detach().numpy() if isinstance(theirs, torch.Tensor) else np.asarray(theirs)
    ours = np.asarray(ours)
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    scale = float(np.abs(theirs).max())
    assert np.isfinite(scale)
    assert scale > 0
    return float(np.abs(ours - theirs).max()) / scale


def relative_norm(ours, theirs):
    """Return the norm of the difference over the norm of the reference, over all leaves of two dicts of arrays."""
    assert ours.keys() == theirs.keys(), ours.keys() ^ theirs.keys()
    difference = sum(float(np.square(np.asarray(ours[k], np.float64) - theirs[k]).sum()) for k in ours)
    return (difference / sum(float(np.square(np.asarray(v, np.float64)).sum()) for v in theirs.values())) ** 0.5
