"""Supervised pre-training on clips of video: the action shown, Video Swin-T (paper, section 2.2; Liu et al. 2022).

    jaxneuro train --config configs/pretrain_video.py --workdir runs/kinetics --config.data.path=data/kinetics
    jaxneuro train --config configs/finetune_ad.py --workdir runs/ad_video --config.model.name=swin_t \
        --config.init.path=runs/kinetics --config.init.channels=sum --config.optimizer.layer_decay=0.8

The dataset comes from `jaxneuro prepare /data/k400 --out data/kinetics --recipe clip32x2` (docs/data.md): clips [time,
height, width, channel] of bytes, the action in the manifest's column `label`. Time and part of the picture are drawn
where clips are decoded; with few stored clips a video, --config.augment.crop.share=0.875 adds to them. Published: 32
frames of 224 x 224, AdamW 1e-3 with decay 0.02 (a tenth of the rate for the backbone, from ImageNet weights), 2.5
epochs of warm-up, 30 epochs, batch 64, top-1 78.8 % on Kinetics-400 with 4 x 3 views. Not run here at that size.
Published weights need no training: docs/weights.md.
"""

import common
import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """Return the experiment."""
    config = common.get_config()
    config.task.update(name="action", kind="multiclass", target="label", classes=("*",), ignore=())
    config.model.name = "swin_t"
    # Decoding is most of the work. A thread decodes a batch: 16 of 64 clips are 4.6 GiB.
    config.data.update(batch_size=64, normalise="video", threads=16, prefetch=16)
    # Left and right change places in a picture's width; axis 0 is time.
    config.augment = ml_collections.ConfigDict({"flip": {"axis": 2, "probability": 0.5}})
    config.optimizer.update(learning_rate=1e-3, weight_decay=0.02, warmup_epochs=2.5)
    config.training.update(epochs=30)
    return config
