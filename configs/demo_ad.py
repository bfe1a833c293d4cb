"""The demo's classifier: AD against controls on the synthetic cohort, a small DenseNet at 40^3.

make demo

On two CPU cores (AMD EPYC, 25 November 2026) it trains in 190 s, 234 scans. With seed 0: ROC-AUC 0.84 (0.72 to 0.94) on
48 held-out subjects and 0.90 (0.80 to 0.97) on the 64 of the unseen site. README has those of another processor.
"""

import common
import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """Return the experiment."""
    config = common.get_config()
    config.data.batch_size = 16
    config.model.update(name="tiny_densenet", block_sizes=(2, 4, 4), growth_rate=12, stem_features=16)
    config.optimizer.update(learning_rate=2e-3)
    config.training.update(epochs=25)
    return config
