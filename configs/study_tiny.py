"""The smallest study that goes through everything: three rows, a pre-training, two tasks, two fractions, two seeds, two
sites left out, and probes for the site.

    jaxneuro study --config configs/study_tiny.py --out runs/study-tiny       (make study)

Networks of a few thousand weights see each scan once or twice: they learn nothing, and the tables are those of chance.
"""

from jaxneuro.study.spec import UNSEEN, Dataset, Pretraining, Row, Sheet, Study, Task

#: The cohorts are of brains, which lie in the template's space.
BRAINS = {"recipe": "quick40", "skip": ("bias", "strip"), "already": ("register",)}
DENSENET = ("model.name=tiny_densenet_testing", "model.block_sizes=(1,1)")
VIT = ("model.name=vit_b16_testing",)
SHORT = ("training.epochs=2", "optimizer.warmup_epochs=0.5")


def get_config() -> Study:
    """Return the study."""
    both = {"dataset": "patients", "zero_shot": (UNSEEN, "outside"), "overrides": SHORT}
    return Study(
        title="A study of minutes, on synthetic cohorts",
        datasets={
            "healthy": Dataset(
                title="Healthy",
                cohort={"subjects": 40, "seed": 1000, "diagnoses": {"CN": 1.0}, "max_sessions": 1, "voxel_size": 4.0},
                prepare={**BRAINS, "subject_prefix": "h", "validation": 0.2, "test": 0.1},
            ),
            "patients": Dataset(
                title="Patients",
                cohort={
                    "subjects": 96, "seed": 0, "diagnoses": {"CN": 0.6, "AD": 0.4}, "max_sessions": 1,
                    "voxel_size": 4.0,
                },
                prepare={**BRAINS, "subject_prefix": "p", "validation": 0.2, "test": 0.3, "ood_sites": ("D",)},
            ),
            "outside": Dataset(
                title="Outside",
                cohort={
                    "subjects": 30, "seed": 3000, "sites": ("C",), "diagnoses": {"CN": 0.6, "AD": 0.4},
                    "max_sessions": 1, "voxel_size": 4.0,
                },
                prepare={**BRAINS, "subject_prefix": "x", "validation": 0.1, "test": 0.1},
            ),
        },
        pretrainings={
            "contrastive": Pretraining(
                config="configs/pretrain_contrastive.py", dataset="healthy",
                overrides=(*DENSENET, "data.normalise=brain", "data.batch_size=8", "training.epochs=1"),
            ),
        },
        rows=(
            Row(name="densenet-scratch", backbone="DenseNet", initial="Scratch", overrides=DENSENET),
            Row(
                name="densenet-healthy", backbone="DenseNet", initial="Healthy + contrastive",
                pretraining="contrastive", overrides=DENSENET,
            ),
            Row(name="vit-scratch", backbone="ViT", initial="Scratch", overrides=VIT),
        ),
        tasks={
            "ad": Task(title="AD classification", config="configs/finetune_ad.py", **both),
            "age": Task(title="Brain age", config="configs/finetune_age.py", **both),
        },
        fractions={1.0: (), 0.5: ()},
        seeds=(0, 1),
        sheets={
            "table2": Sheet(title="AD classification, by network and start", kind="metrics", tasks=("ad",)),
            "table3": Sheet(
                title="Tasks, in domain and zero-shot", kind="tasks", tasks=("ad", "age"),
                rows=("densenet-scratch", "densenet-healthy"),
            ),
            "table4": Sheet(
                title="AD classification, by the share of the training subjects", kind="fractions", tasks=("ad",),
                fractions=(1.0, 0.5),
            ),
            "sites": Sheet(
                title="AD classification, each site left out", kind="sites", tasks=("ad",), rows=("densenet-scratch",),
                sites=("A", "B"),
            ),
            "probe": Sheet(
                title="Site read from the features of AD networks", kind="probe", tasks=("ad",),
                rows=("densenet-scratch", "densenet-healthy"),
            ),
            "maps": Sheet(
                title="Where the outputs of AD networks come from", kind="maps", tasks=("ad",),
                rows=("densenet-healthy", "vit-scratch"),
            ),
        },
        resamples=200,
        maps={"patch": 10, "stride": 10, "scans": 2, "untrained": True},
    )  # fmt: skip
