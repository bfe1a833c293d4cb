"""The demo's brain age: controls of the synthetic cohort, a small DenseNet at 40^3, L1 loss.

make demo

On two CPU cores (Intel Xeon, AVX-512) it trains in 71 s, 149 scans. With seed 0: mean absolute error 4.12 years (3.18
to 5.18) on 30 held-out controls, where predicting the training mean errs by 7.28; 7.15 against 6.73 on the 40 of the
unseen site.
"""

import demo_ad
import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """Return the experiment."""
    config = demo_ad.get_config()
    config.task.update(name="age", kind="regression", target="age", classes=(), ignore=(), only=("CN",))
    return config
