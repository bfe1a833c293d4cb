"""Weights in and out: torch checkpoints in their published layouts, our folders, StableHLO."""

from jaxneuro.interop.weights import convert, from_torch, to_torch

__all__ = ["convert", "from_torch", "to_torch"]
