"""The demo's classifier: AD against controls on the synthetic cohort, a small DenseNet at 40^3.

make demo

On two CPU cores (Intel Xeon, AVX-512) it trains in 107 s, 234 scans at 57 volumes/s. With seed 0 the
first version of the code gave ROC-AUC 0.84 (0.71 to 0.94) on 48 held-out subjects and 0.74 (0.61 to 0.86) on the 64 of
the unseen site there; on an AMD EPYC, 25 November 2026, it was 0.84 (0.72 to 0.94) and 0.90 (0.80 to 0.97).
"""

import common
import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """Return the experiment."""
    config = common.get_config()
    config.data.batch_size = 16
    config.model.update(name="tiny_densenet", block_sizes=(2, 4, 4), growth_rate=12, stem_features=24)
    config.optimizer.update(learning_rate=2e-3)
    config.training.update(epochs=20)
    return config
