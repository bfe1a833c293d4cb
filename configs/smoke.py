"""The smallest run that goes through everything: one epoch of a testing-size DenseNet.

jaxneuro train --config configs/smoke.py --workdir runs/smoke --config.data.path=DIR
"""

import common
import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """Return the experiment."""
    config = common.get_config()
    config.model.name = "tiny_densenet_testing"
    config.data.batch_size = 4
    config.training.update(epochs=1, log_every=1)
    return config
