"""The paper's benchmark whole: every row of Table 2, the tasks of Table 3, the fractions of Table 4, two seeds.

    jaxneuro prepare ADNI --table ADNIMERGE.csv --out data/adni80 --recipe paper80       # and so on, one a dataset
    jaxneuro convert swin3d_t-7615ae03.pth --model swin_t --source torchvision --channels sum --head fresh \
        --out weights/swin
    jaxneuro study --config configs/study_paper.py --out runs/paper --list
    jaxneuro study --config configs/study_paper.py --out runs/paper --data adni=/data/adni80

Data come from their owners, under their terms; docs/data.md has the readers. Both rows of the ViT take volumes of 96
voxels, as its pre-training does (paper, section 3.1), and all rows of a network have one recipe, so that the start is
all that differs. The paper searched hyperparameters; nothing was searched here. It fine-tuned weights that were
published for BHB on grey matter maps; here BHB's quasi-raw scans are pre-trained on. Not run here at that size.
"""

from jaxneuro.study.spec import Dataset, Pretraining, Row, Sheet, Study, Task

SWIN = ("model.name=swin_t",)
VIT = ("model.name=vit_b16", "data.batch_size=16", "optimizer.learning_rate=1e-4")
MINIT = ("model.name=minit", "data.batch_size=16", "optimizer.learning_rate=1e-4")
NIT = ("model.name=nit", "data.batch_size=16", "optimizer.learning_rate=1e-4")
DENSENET = ("model.name=densenet121",)
TINY = ("model.name=tiny_densenet",)
LARGE = {"adni": "adni96", "oasis": "oasis96"}


def get_config() -> Study:
    """Return the study."""
    return Study(
        title="Video and synthetic MRI pre-training of 3D vision architectures",
        datasets={
            "ukb": Dataset(title="UK Biobank", path="data/ukb80"),
            "ukb96": Dataset(title="UK Biobank, 96 voxels", path="data/ukb96"),
            "bhb": Dataset(title="BHB", path="data/bhb80"),
            "ldm": Dataset(title="LDM", path="data/ldm80"),
            "adni": Dataset(title="ADNI", path="data/adni80"),
            "adni96": Dataset(title="ADNI, 96 voxels", path="data/adni96"),
            "oasis": Dataset(title="OASIS", path="data/oasis80"),
            "oasis96": Dataset(title="OASIS, 96 voxels", path="data/oasis96"),
            "taiwan": Dataset(title="PD dataset A", path="data/taiwan80"),
            "upenn": Dataset(title="PD dataset B", path="data/upenn80"),
        },
        pretrainings={
            "kinetics": Pretraining(weights="weights/swin"),
            "ukb-masked": Pretraining(config="configs/pretrain_masked.py", dataset="ukb96"),
            "ldm-sex": Pretraining(config="configs/pretrain_supervised.py", dataset="ldm"),
            "ukb-contrastive": Pretraining(config="configs/pretrain_contrastive.py", dataset="ukb"),
            "adni-contrastive": Pretraining(config="configs/pretrain_contrastive.py", dataset="adni"),
            "bhb-contrastive": Pretraining(config="configs/pretrain_contrastive.py", dataset="bhb"),
            "ldm-contrastive": Pretraining(config="configs/pretrain_contrastive.py", dataset="ldm"),
        },
        rows=(
            Row(name="swin-scratch", backbone="Swin-T", initial="Scratch", overrides=SWIN, published="swin-scratch"),
            Row(
                name="swin-kinetics", backbone="Swin-T", initial="Kinetics-400 + supervised", pretraining="kinetics",
                overrides=SWIN, published="swin-kinetics",
            ),
            Row(
                name="vit-scratch", backbone="ViT B/16", initial="Scratch", overrides=VIT, instead=LARGE,
                published="vit-scratch",
            ),
            Row(
                name="vit-masked", backbone="ViT B/16", initial="UKB + masked image", pretraining="ukb-masked",
                overrides=VIT, instead=LARGE, published="vit-masked",
            ),
            Row(name="minit-scratch", backbone="MiNiT", initial="Scratch", overrides=MINIT, published="minit-scratch"),
            Row(
                name="minit-ldm", backbone="MiNiT", initial="LDM + supervised", pretraining="ldm-sex",
                overrides=MINIT, published="minit-ldm",
            ),
            Row(name="nit-scratch", backbone="NiT", initial="Scratch", overrides=NIT, published="nit-scratch"),
            Row(
                name="densenet-scratch", backbone="3D DenseNet121", initial="Scratch", overrides=DENSENET,
                published="densenet-scratch",
            ),
            *(
                Row(
                    name=f"densenet-{data}", backbone="3D DenseNet121", initial=f"{data.upper()} + contrastive",
                    pretraining=f"{data}-contrastive", overrides=DENSENET, published=f"densenet-{data}",
                )
                for data in ("ukb", "adni", "bhb", "ldm")
            ),
            Row(
                name="tiny-scratch", backbone="3D Tiny DenseNet", initial="Scratch", overrides=TINY,
                published="tiny-scratch",
            ),
        ),
        tasks={
            "ad": Task(
                title="AD classification", config="configs/finetune_ad.py", dataset="adni", zero_shot=("oasis",),
                published="ad",
            ),
            "age": Task(
                title="Brain age", config="configs/finetune_age.py", dataset="adni", zero_shot=("oasis",),
                published="age",
            ),
            "pd": Task(
                title="PD classification", config="configs/finetune_pd.py", dataset="taiwan", zero_shot=("upenn",),
                published="pd",
            ),
        },
        fractions={1.0: (), 0.1: ()},
        seeds=(0, 1),
        sheets={
            "table2": Sheet(title="AD classification, by network and start", kind="metrics", tasks=("ad",)),
            "table3": Sheet(
                title="Tasks, in domain and zero-shot", kind="tasks", tasks=("ad", "age", "pd"),
                rows=(
                    "swin-scratch", "swin-kinetics", "minit-scratch", "minit-ldm", "densenet-scratch", "densenet-ukb",
                ),
            ),
            "table4": Sheet(
                title="AD classification, by the share of the training subjects", kind="fractions", tasks=("ad",),
                rows=(
                    "swin-scratch", "swin-kinetics", "minit-scratch", "minit-ldm", "densenet-scratch", "densenet-ukb",
                    "densenet-adni", "densenet-bhb", "densenet-ldm", "tiny-scratch",
                ),
                fractions=(1.0, 0.1),
            ),
            # ADNIMERGE names sites, more than fifty. To leave out each would be a hundred runs a row and more:
            # docs/study.md says how to do so for the largest.
            "probe": Sheet(title="Site read from the features of AD networks", kind="probe", tasks=("ad",)),
            "figure4": Sheet(
                title="Where the outputs of AD networks come from", kind="maps", tasks=("ad",),
                rows=("swin-kinetics", "densenet-ukb"),
            ),
        },
        maps={"scans": 20},
    )  # fmt: skip
