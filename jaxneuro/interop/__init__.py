"""Weights in and out: torch checkpoints in their published layouts, our folders, StableHLO."""

from jaxneuro.interop.weights import abstract, convert, from_torch, to_torch

__all__ = ["abstract", "convert", "from_torch", "to_torch"]
