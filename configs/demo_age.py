"""The demo's brain age: controls of the synthetic cohort, a small DenseNet at 40^3, L1 loss.

make demo

On two CPU cores (AMD EPYC, 26 November 2026) it trains in 89 s, 50 scans. With seed 0: mean absolute error 3.35 years
(2.30 to 4.44) on 20 held-out controls, where predicting the training mean errs by 6.08; 8.14 against 6.61 on the 27 of
the unseen site.
"""

import demo_ad
import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """Return the experiment."""
    config = demo_ad.get_config()
    config.data.batch_size = 8  # half the scans of the classifier's: as many steps
    config.training.update(epochs=50)
    config.task.update(name="age", kind="regression", target="age", classes=(), ignore=(), only=("CN",))
    return config
