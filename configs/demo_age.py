"""The demo's brain age: controls of the synthetic cohort, a small DenseNet at 40^3, L1 loss.

make demo
"""

import demo_ad
import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """Return the experiment."""
    config = demo_ad.get_config()
    config.task.update(name="age", kind="regression", target="age", classes=(), ignore=(), only=("CN",))
    return config
