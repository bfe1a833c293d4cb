"""The smallest search that goes through everything: a ViT of a few thousand weights, stopped early where it is poor.

jaxneuro cohort --out data/tiny --subjects 96 --voxel-size 4
jaxneuro prepare data/tiny --out data/tiny40 --recipe quick40 --skip bias,strip,register
jaxneuro search --config configs/search_tiny.py --out runs/search-tiny --data data/tiny40
"""

from jaxneuro.study.search_spec import Choice, LogUniform, Search, Uniform


def get_config() -> Search:
    """Return the search."""
    return Search(
        title="AD classification by a tiny ViT",
        config="configs/finetune_ad.py",
        overrides=("model.name=vit_b16_testing", "training.epochs=6", "optimizer.warmup_epochs=1"),
        space={
            "optimizer.learning_rate": LogUniform(1e-5, 2e-3),
            "optimizer.name": Choice(("sgd", "adam", "adamw")),
            "optimizer.weight_decay": Uniform(0.0, 0.2),
            "data.batch_size": Choice((4, 8)),
            "model.heads": Choice((2, 4)),
            "model.depth": Choice((1, 2)),
        },
        trials=12,
        method="pruned",
    )
