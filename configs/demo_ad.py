"""The demo's classifier: AD against controls on the synthetic cohort, a small DenseNet at 40^3.

make demo

On two CPU cores (AMD EPYC, 26 November 2026) it trains in 76 s, 90 scans. With seed 0: ROC-AUC 0.87 (0.75 to 0.99) on
38 held-out subjects and 0.67 (0.51 to 0.82) on the 50 of the unseen site.
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
