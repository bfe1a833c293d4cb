"""Weights in and out: torch checkpoints in their published layouts, and our own folders."""

from jaxneuro.interop.adapt import Adaptation
from jaxneuro.interop.folder import load
from jaxneuro.interop.layouts import LAYOUTS
from jaxneuro.interop.transfer import transfer
from jaxneuro.interop.weights import MisfitError, Row, abstract, from_torch, to_torch

__all__ = ["LAYOUTS", "Adaptation", "MisfitError", "Row", "abstract", "from_torch", "load", "to_torch", "transfer"]
