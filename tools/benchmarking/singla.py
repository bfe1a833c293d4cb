"""NiT and MiNiT in torch as one would write them for speed: one patch embedding, fused attention, blocks in the batch.

Nobody publishes them in a package. This follows the description of Singla et al. (2022), with the names of the
published state dicts, so that a test can put the weights of the plain statement in tests/ into it. No dropout.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F


def patches(x: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Cut volumes [b, c, d, h, w] into [b, n, voxels of a patch x c], channel last."""
    b, c, *sides = x.shape
    d, h, w = (n // s for n, s in zip(sides, size, strict=True))
    x = x.reshape(b, c, d, size[0], h, size[1], w, size[2]).permute(0, 2, 4, 6, 3, 5, 7, 1)
    return x.reshape(b, d * h * w, -1)


def count(image: Sequence[int], size: Sequence[int]) -> int:
    """Count the cubes of `size` in an image."""
    return math.prod(n // s for n, s in zip(image, size, strict=True))


class Inner(nn.Module):
    """LayerNorm and a layer, under the names `fn.norm` and `fn.fn` of a residual."""

    def __init__(self, dim: int, layer: nn.Module) -> None:
        super().__init__()
        self.fn = nn.ModuleDict({"norm": nn.LayerNorm(dim), "fn": layer})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return x [b, n, dim] and what the layer adds."""
        return x + self.fn["fn"](self.fn["norm"](x))


class Attention(nn.Module):
    """Attention without biases on queries, keys and values."""

    def __init__(self, dim: int, heads: int, dim_head: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_qkv = nn.Linear(dim, 3 * heads * dim_head, bias=False)
        self.to_out = nn.Sequential(nn.Linear(heads * dim_head, dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map x [b, n, dim] to the same shape."""
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.to_qkv(x).chunk(3, -1))
        return self.to_out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Two linear layers and a GELU, under the names `net.0` and `net.3`."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Identity(), nn.Linear(hidden, dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map x [b, n, dim] to the same shape."""
        return self.net(x)


class Transformer(nn.Module):
    """Blocks of attention and feed-forward layers."""

    def __init__(self, dim: int, depth: int, heads: int, dim_head: int, mlp_dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(Inner(dim, Attention(dim, heads, dim_head)), Inner(dim, Mlp(dim, mlp_dim)))
            for _ in range(depth)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map x [b, n, dim] to the same shape."""
        for layer in self.layers:
            x = layer(x)
        return x


class NiT(nn.Module):
    """One transformer on the patches of the whole volume; the distillation parts take no part."""

    def __init__(
        self, *, image_size: Sequence[int], patch_size: Sequence[int], num_classes: int, dim: int, depth: int,
        heads: int, dim_head: int, mlp_dim: int,
    ) -> None:  # fmt: skip
        super().__init__()
        self.patch = tuple(patch_size)
        self.pos_embedding = nn.Parameter(torch.randn(1, count(image_size, patch_size) + 1, dim))
        self.patch_to_embedding = nn.Linear(math.prod(patch_size), dim)
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim))
        self.distill_token = nn.Parameter(torch.randn(1, 1, dim))
        self.transformer = Transformer(dim, depth, heads, dim_head, mlp_dim)
        self.mlp_head = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, num_classes))
        self.distill = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, num_classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map volumes [b, 1, d, h, w] to logits [b, k]."""
        x = self.patch_to_embedding(patches(x, self.patch))
        x = torch.cat([self.cls_token.expand(len(x), 1, -1), x], dim=1) + self.pos_embedding
        return self.mlp_head(self.transformer(x)[:, 0])


class _Block(nn.Module):
    def __init__(
        self, block: Sequence[int], patch: Sequence[int], classes: int, dim: int, depth: int, heads: int,
        dim_head: int, mlp_dim: int,
    ) -> None:  # fmt: skip
        super().__init__()
        self.to_patch_embedding = nn.Sequential(nn.Identity(), nn.Linear(math.prod(patch), dim))
        self.pos_embedding = nn.Parameter(torch.randn(1, count(block, patch) + 1, dim))
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim))
        self.transformer = Transformer(dim, depth, heads, dim_head, mlp_dim)
        self.mlp_head = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, classes))


class MINiT(nn.Module):
    """One small transformer on each block of the volume, all blocks in one batch; a linear layer joins their logits."""

    def __init__(
        self, *, image_size: Sequence[int], block_size: Sequence[int], patch_size: Sequence[int], num_classes: int,
        dim: int, depth: int, heads: int, dim_head: int, mlp_dim: int,
    ) -> None:  # fmt: skip
        super().__init__()
        self.block, self.patch = tuple(block_size), tuple(patch_size)
        blocks, tokens = count(image_size, block_size), count(block_size, patch_size) + 1
        self.block_embeddings = nn.Parameter(torch.randn(blocks, tokens, dim))
        self.vit = _Block(block_size, patch_size, num_classes, dim, depth, heads, dim_head, mlp_dim)
        self.linear = nn.Linear(blocks * num_classes, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map volumes [b, 1, d, h, w] to logits [b, k]."""
        b, vit = len(x), self.vit
        x = patches(x, self.block).reshape(-1, 1, *self.block)  # one channel: voxels in order
        x = vit.to_patch_embedding(patches(x, self.patch))
        x = torch.cat([vit.cls_token.expand(len(x), 1, -1), x], dim=1) + vit.pos_embedding
        x = x.unflatten(0, (b, -1)) + self.block_embeddings
        each = vit.mlp_head(vit.transformer(x.flatten(0, 1))[:, 0])
        return self.linear(each.reshape(b, -1))
