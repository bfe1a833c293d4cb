"""Pre-train, fine-tune, test and explain 3D vision networks on brain MRI."""

__version__ = "0.1.0"
