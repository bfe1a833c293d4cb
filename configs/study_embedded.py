"""The paper's benchmark in small, on synthetic cohorts that it makes itself: every kind of row, task and table.

    jaxneuro study --config configs/study_embedded.py --out runs/embedded

Healthy people of three sites to pre-train on (and a cohort of one scanner alone, in the place of the paper's synthetic
MRI), others with Alzheimer's and Parkinson's disease to fine-tune on, and people of a fourth site to test on without
training. Networks are the paper's, smaller, on 40 voxels a side. An hour by two processes, a core each:
docs/embedded.md has its tables. Nothing about patients follows from its numbers.
"""

from jaxneuro.study.spec import Dataset, Pretraining, Row, Sheet, Study, Task

#: The cohorts are of brains, which lie in the template's space.
BRAINS = {"recipe": "quick40", "skip": ("bias", "strip"), "already": ("register",)}
HEALTHY = {
    "diagnoses": {"CN": 1.0}, "age_mean": {"CN": 65.0}, "age_sd": 10.0, "age_range": (45.0, 83.0), "max_sessions": 1,
    "voxel_size": 3.0,
}  # fmt: skip
DENSENET = ("model.name=tiny_densenet", "model.block_sizes=(2,4,4)", "model.growth_rate=12", "model.stem_features=24")
TINY = ("model.name=tiny_densenet", "model.block_sizes=(1,2,2)", "model.growth_rate=8", "model.stem_features=16")
VIT = ("model.name=vit_b16", "model.patch_size=(8,8,8)", "model.width=96", "model.depth=4", "model.heads=4")
SWIN = (
    "model.name=swin_t", "model.embed=24", "model.depths=(2,2)", "model.heads=(2,4)", "model.window=(5,5,5)",
    "model.patch_size=(4,4,4)",
)  # fmt: skip
NIT = ("width=48", "depth=3", "heads=4", "head_width=12", "mlp_hidden=96")
MINIT = ("model.name=minit_b20", *(f"model.{s}" for s in NIT))  # blocks that 40 voxels are a multiple of
FLAT = ("model.name=nit", "model.patch_size=(8,8,8)", *(f"model.{s}" for s in NIT))
CNN = ("optimizer.learning_rate=2e-3", "training.epochs=20")  # they learn in fewer epochs
RATE = ("optimizer.learning_rate=1e-3",)
#: Scans lie in one space already, and two voxels are a centimetre here: shifted so far, transformers learnt nothing.
LONG = (
    "training.epochs=40", "training.evaluate_every=4", "data.batch_size=16", "data.source=memory",
    "augment.shift.voxels=0",
)  # fmt: skip
#: Noise and blur hide what a small network at this size can see (docs/pretraining.md).
CONTRASTIVE = (
    *DENSENET, "training.epochs=10", "data.batch_size=32", "data.normalise=brain", "optimizer.learning_rate=3e-4",
    "augment.noise.probability=0.0", "augment.blur.probability=0.0",
)  # fmt: skip
SUPERVISED = (
    "training.epochs=6", "optimizer.warmup_epochs=1.0", "optimizer.learning_rate=5e-4", "data.source=memory",
    "augment.shift.voxels=0",
)  # fmt: skip


def get_config() -> Study:
    """Return the study."""
    tasks = {"dataset": "patients", "zero_shot": ("outside",), "overrides": LONG}
    return Study(
        title="The benchmark in small, on synthetic cohorts",
        datasets={
            "healthy": Dataset(
                title="Healthy", cohort={**HEALTHY, "subjects": 600, "seed": 1000, "sites": ("A", "B", "C")},
                prepare={**BRAINS, "subject_prefix": "h", "validation": 0.1, "test": 0.05},
            ),
            "single": Dataset(
                title="One scanner", cohort={**HEALTHY, "subjects": 300, "seed": 2000, "sites": ("B",)},
                prepare={**BRAINS, "subject_prefix": "o", "validation": 0.1, "test": 0.05},
            ),
            "patients": Dataset(
                title="Patients",
                cohort={"subjects": 480, "seed": 0, "sites": ("A", "B", "C"), "max_sessions": 1, "voxel_size": 3.0},
                prepare={**BRAINS, "subject_prefix": "p", "validation": 0.15, "test": 0.35},
            ),
            "outside": Dataset(
                title="Outside",
                cohort={"subjects": 150, "seed": 3000, "sites": ("D",), "max_sessions": 1, "voxel_size": 3.0},
                prepare={**BRAINS, "subject_prefix": "x", "validation": 0.1, "test": 0.1},
            ),
        },
        pretrainings={
            "swin-sex": Pretraining(
                config="configs/pretrain_supervised.py", dataset="healthy", overrides=(*SWIN, *SUPERVISED)
            ),
            "masked": Pretraining(
                config="configs/pretrain_masked.py", dataset="healthy",
                overrides=(
                    *VIT, "training.epochs=20", "objective.ratio=0.6", "optimizer.learning_rate=1e-3",
                    "optimizer.warmup_epochs=2.0",
                ),
            ),
            "minit-sex": Pretraining(
                config="configs/pretrain_supervised.py", dataset="single", overrides=(*MINIT, *SUPERVISED)
            ),
            "contrastive": Pretraining(
                config="configs/pretrain_contrastive.py", dataset="healthy", overrides=CONTRASTIVE
            ),
            "contrastive-self": Pretraining(
                config="configs/pretrain_contrastive.py", dataset="patients", overrides=CONTRASTIVE
            ),
            "contrastive-single": Pretraining(
                config="configs/pretrain_contrastive.py", dataset="single", overrides=CONTRASTIVE
            ),
        },
        rows=(
            Row(
                name="swin-scratch", published="swin-scratch",
                backbone="Swin", initial="Scratch", overrides=(*SWIN, *RATE),
            ),
            Row(
                name="swin-sex", published="swin-kinetics",
                backbone="Swin", initial="Healthy + supervised", pretraining="swin-sex",
                overrides=(*SWIN, *RATE),
            ),
            Row(
                name="vit-scratch", published="vit-scratch",
                backbone="ViT", initial="Scratch", overrides=(*VIT, *RATE),
            ),
            Row(
                name="vit-masked", published="vit-masked",
                backbone="ViT", initial="Healthy + masked image", pretraining="masked",
                overrides=(*VIT, *RATE),
            ),
            Row(
                name="minit-scratch", published="minit-scratch",
                backbone="MiNiT", initial="Scratch", overrides=(*MINIT, *RATE),
            ),
            Row(
                name="minit-sex", published="minit-ldm",
                backbone="MiNiT", initial="One scanner + supervised", pretraining="minit-sex",
                overrides=(*MINIT, *RATE),
            ),
            Row(
                name="nit-scratch", published="nit-scratch",
                backbone="NiT", initial="Scratch", overrides=(*FLAT, *RATE),
            ),
            Row(
                name="densenet-scratch", published="densenet-scratch",
                backbone="DenseNet", initial="Scratch", overrides=(*DENSENET, *CNN),
            ),
            *(
                Row(
                    name=f"densenet-{name}", backbone="DenseNet", initial=f"{title} + contrastive",
                    pretraining=of, overrides=(*DENSENET, *CNN), published=f"densenet-{like}",
                )
                for name, title, of, like in (
                    ("healthy", "Healthy", "contrastive", "ukb"),
                    ("self", "Patients", "contrastive-self", "adni"),
                    ("single", "One scanner", "contrastive-single", "ldm"),
                )
            ),
            Row(
                name="tiny-scratch", published="tiny-scratch",
                backbone="Tiny DenseNet", initial="Scratch", overrides=(*TINY, *CNN),
            ),
        ),
        tasks={
            "ad": Task(title="AD classification", config="configs/finetune_ad.py", published="ad", **tasks),
            # Of controls alone, who are half of the people: half the batch makes as many steps.
            "age": Task(
                title="Brain age", config="configs/finetune_age.py", published="age",
                **{**tasks, "overrides": (*LONG, "data.batch_size=8")},
            ),
            "pd": Task(title="PD classification", config="configs/finetune_pd.py", published="pd", **tasks),
        },
        # A tenth is so few scans that an epoch is a step or two.
        fractions={1.0: (), 0.1: ("training.epochs=60", "training.evaluate_every=6", "data.batch_size=8")},
        seeds=(0, 1),
        sheets={
            "table2": Sheet(title="AD classification, by network and start", kind="metrics", tasks=("ad",)),
            "table3": Sheet(
                title="Tasks, in domain and zero-shot", kind="tasks", tasks=("ad", "age", "pd"),
                rows=("swin-scratch", "swin-sex", "minit-scratch", "minit-sex", "densenet-scratch", "densenet-healthy"),
            ),
            "table4": Sheet(
                title="AD classification, by the share of the training subjects", kind="fractions", tasks=("ad",),
                fractions=(1.0, 0.1),
            ),
            "sites": Sheet(
                title="AD classification, each site left out", kind="sites", tasks=("ad",),
                rows=("densenet-scratch", "densenet-healthy"), sites=("A", "B", "C"),
            ),
            "probe": Sheet(title="Site read from the features of AD networks", kind="probe", tasks=("ad",)),
            "maps": Sheet(
                title="Where the outputs of AD networks come from", kind="maps", tasks=("ad",),
                rows=("swin-sex", "vit-masked", "densenet-scratch", "densenet-healthy"),
            ),
        },
        maps={"patch": 8, "stride": 4, "scans": 4, "untrained": True},
    )  # fmt: skip
