"""A trained network as it is, on a study that it never saw: no step of training (paper, section 3.2, "zero-shot").

    jaxneuro train --config configs/zero_shot.py --workdir runs/ad_oasis --config.init.path=runs/ad \
        --config.data.path=data/oasis
    jaxneuro evaluate runs/ad_oasis

It chooses the threshold on the validation fold of the new study. To carry the threshold over from the first study,
which is what the paper's OASIS column needs, test the first run there: jaxneuro evaluate runs/ad --data data/oasis

The network, task and normalisation are those of the first run: give the same --config.model, --config.task and
--config.data.normalise as it had. Classes and the scale of a regression come with the weights.
"""

import common
import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """Return the experiment."""
    config = common.get_config()
    config.init.head = "keep"
    config.training.epochs = 0
    return config
