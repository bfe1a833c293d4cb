"""The numbers of the paper, as data, to stand beside those of a study.

Source: Dhinagar et al., Video and Synthetic MRI Pre-training of 3D Vision Architectures for Neuroimage Analysis, Tables
2 to 4: means of two runs, with the deviation where the paper gives it. Age is in years, all else ROC-AUC or a share.
"""

from __future__ import annotations

from typing import NamedTuple

SOURCE = "Dhinagar et al., Tables 2 to 4: means (standard deviations, where given) of two runs"


class Number(NamedTuple):
    """Hold a mean and, where the paper gives one, a standard deviation."""

    mean: float
    sd: float | None = None


N = Number
#: Table 2: row to ROC-AUC, accuracy, sensitivity, specificity on ADNI, and ROC-AUC on OASIS.
_AD: dict[str, tuple[Number, Number, Number, Number, Number]] = {
    "swin-scratch": (N(0.849), N(0.801), N(0.723), N(0.859), N(0.833)),
    "swin-kinetics": (N(0.924), N(0.862), N(0.881), N(0.849), N(0.850)),
    "vit-scratch": (N(0.850), N(0.779), N(0.748), N(0.801), N(0.788)),
    "vit-masked": (N(0.873), N(0.827), N(0.780), N(0.861), N(0.819)),
    "minit-scratch": (N(0.851, 0.001), N(0.782, 0.022), N(0.768, 0.020), N(0.8189, 0.017), N(0.813, 0.003)),
    "minit-ldm": (N(0.844), N(0.783), N(0.773), N(0.790), N(0.790)),
    "nit-scratch": (N(0.805, 0.006), N(0.744, 0.003), N(0.752, 0.003), N(0.738, 0.003), N(0.809, 0.008)),
    "densenet-scratch": (N(0.901, 0.030), N(0.842, 0.028), N(0.840, 0.016), N(0.889, 0.001), N(0.828, 0.024)),
    "densenet-ukb": (N(0.912, 0.005), N(0.863, 0.006), N(0.843, 0.016), N(0.896, 0.020), N(0.841, 0.006)),
    "densenet-adni": (N(0.906, 0.003), N(0.838, 0.004), N(0.760, 0.037), N(0.888, 0.037), N(0.818, 0.013)),
    "densenet-bhb": (N(0.904, 0.005), N(0.845, 0.005), N(0.786, 0.038), N(0.910, 0.002), N(0.824, 0.023)),
    "densenet-ldm": (N(0.892, 0.010), N(0.842, 0.009), N(0.751, 0.023), N(0.889, 0.001), N(0.724, 0.059)),
    "tiny-scratch": (N(0.897, 0.008), N(0.832, 0.021), N(0.836, 0.023), N(0.841, 0.045), N(0.838, 0.006)),
}
#: Table 3: row to mean absolute error of age on ADNI and OASIS, and ROC-AUC of PD on datasets A and B.
_OTHERS: dict[str, tuple[float, float, float, float]] = {
    "swin-scratch": (16.37, 9.396, 0.583, 0.588),
    "swin-kinetics": (4.799, 9.124, 0.498, 0.570),
    "minit-scratch": (5.169, 10.291, 0.595, 0.555),
    "minit-ldm": (5.424, 11.004, 0.640, 0.572),
    "densenet-scratch": (4.837, 8.306, 0.513, 0.596),
    "densenet-ukb": (3.582, 5.701, 0.704, 0.5205),
}
#: Table 4: row to ROC-AUC on ADNI with a tenth of its training data.
_TENTH: dict[str, Number] = {
    "swin-scratch": N(0.677),
    "swin-kinetics": N(0.759),
    "minit-scratch": N(0.772, 0.003),
    "minit-ldm": N(0.809),
    "densenet-scratch": N(0.858, 0.038),
    "densenet-ukb": N(0.872, 0.007),
    "densenet-adni": N(0.744, 0.084),
    "densenet-bhb": N(0.855, 0.006),
    "densenet-ldm": N(0.724, 0.002),
    "tiny-scratch": N(0.853, 0.010),
}
_METRICS = ("roc_auc", "accuracy", "sensitivity", "specificity")
#: (row, task, share of the training data, "test" or "zero-shot", metric) to the number.
NUMBERS: dict[tuple[str, str, float, str, str], Number] = {
    **{
        (row, "ad", 1.0, "test", metric): number
        for row, numbers in _AD.items()
        for metric, number in zip(_METRICS, numbers[:4], strict=True)
    },
    **{(row, "ad", 1.0, "zero-shot", "roc_auc"): numbers[4] for row, numbers in _AD.items()},
    **{(row, "ad", 0.1, "test", "roc_auc"): number for row, number in _TENTH.items()},
    **{(row, "age", 1.0, "test", "mae"): Number(numbers[0]) for row, numbers in _OTHERS.items()},
    **{(row, "age", 1.0, "zero-shot", "mae"): Number(numbers[1]) for row, numbers in _OTHERS.items()},
    **{(row, "pd", 1.0, "test", "roc_auc"): Number(numbers[2]) for row, numbers in _OTHERS.items()},
    **{(row, "pd", 1.0, "zero-shot", "roc_auc"): Number(numbers[3]) for row, numbers in _OTHERS.items()},
}
#: Row to what it began with there, as the paper's tables have it.
STARTS = {
    "swin-scratch": "scratch", "swin-kinetics": "Kinetics-400 + supervised", "vit-scratch": "scratch",
    "vit-masked": "UKB + masked image", "minit-scratch": "scratch", "minit-ldm": "LDM + supervised",
    "nit-scratch": "scratch", "densenet-scratch": "scratch", "densenet-ukb": "UKB + contrastive",
    "densenet-adni": "ADNI + contrastive", "densenet-bhb": "BHB + contrastive", "densenet-ldm": "LDM + contrastive",
    "tiny-scratch": "scratch",
}  # fmt: skip
ROWS = tuple(_AD)
