"""y-aware contrastive pre-training with age as the proxy (paper, section 2.2; Dufumier et al. 2021), DenseNet121.

    jaxneuro train --config configs/pretrain_contrastive.py --workdir runs/ukb_contrastive --config.data.path=data/ukb
    jaxneuro probe runs/ukb_contrastive --config configs/finetune_age.py
    jaxneuro train --config configs/finetune_ad.py --workdir runs/ad_ukb --config.init.path=runs/ukb_contrastive

Any backbone: --config.model.name=swin_t. More proxies, each with its sigma: --config.objective.proxies.sex=0.5.
SimCLR, in which a scan matches only itself: --config.objective.proxies.age=0.0. The loss is that of the published
code; --config.objective.form=formula is that of the published formula.

As published: sigma 5 years, temperature 0.1, batch 64, Adam 1e-4 with decay 5e-5, 100 epochs, z-score over the whole
volume, five views. Then DenseNet121 fine-tuned on ADNI reached ROC-AUC 0.912 (0.005) in the paper. Not run here at
that size.
"""

import common
import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """Return the experiment."""
    config = common.get_config()
    config.objective.update(name="contrastive", form="published", temperature=0.1)
    config.objective.proxies = ml_collections.ConfigDict({"age": 5.0})
    config.augment = ml_collections.ConfigDict(common.CONTRASTIVE_VIEWS)
    config.data.update(batch_size=64, normalise="volume")
    config.optimizer.update(
        name="adam", learning_rate=1e-4, weight_decay=5e-5, schedule="constant", warmup_epochs=0.0, clip=0.0
    )
    config.training.update(epochs=100, patience=30)
    return config
