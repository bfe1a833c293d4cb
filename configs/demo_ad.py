"""The demo's classifier: AD against controls on the synthetic cohort, a small DenseNet at 40^3.

make demo
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
