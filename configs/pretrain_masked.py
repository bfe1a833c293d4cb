"""Masked-image pre-training of the paper's scaled ViT B/16 at 96^3 (paper, section 2.2; Xie et al. 2022).

    jaxneuro prepare scans.csv --out data/ukb96 --recipe paper96
    jaxneuro train --config configs/pretrain_masked.py --workdir runs/ukb_masked --config.data.path=data/ukb96
    jaxneuro train --config configs/finetune_ad.py --workdir runs/ad_vit --config.model.name=vit_b16 \
        --config.data.path=data/adni96 --config.init.path=runs/ukb_masked --config.optimizer.layer_decay=0.8

Up to 90 % of a scan is hidden; the L1 loss is taken over hidden voxels. MAE, which encodes only what is visible:
--config.objective.kind=mae (the same command otherwise). Blocks of several patches: --config.objective.mask_size=32.
No visible patch wasted on background: --config.objective.background=skip. Others than ViTs: --config.model.name=swin_t,
nit or minit (SimMIM only). runs/ukb_masked/pictures shows what is rebuilt.

The paper reports ROC-AUC 0.873 on ADNI after this and 0.850 from scratch. Not run here at that size.
"""

import common
import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """Return the experiment."""
    config = common.get_config()
    config.objective.update(name="masked", kind="simmim", ratio=0.9, mask_size=0, background="keep")
    config.model.name = "vit_b16"
    config.augment = ml_collections.ConfigDict({"flip": {"probability": 0.5}})
    config.data.batch_size = 16
    config.optimizer.update(learning_rate=1e-4, weight_decay=0.05, beta2=0.95, warmup_epochs=10.0, clip=5.0)
    config.training.update(epochs=100, patience=30)
    return config
