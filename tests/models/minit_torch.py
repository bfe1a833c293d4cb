"""MiNiT and NiT stated plainly in torch, with the names of the published state dicts.

There is no package to compare with, so this says in torch what Singla et al. (2022) describe, layer by layer: pre-norm
blocks, queries, keys and values without biases, a head on the class token. Loops over blocks and heads instead of
clever reshapes, so that it shares no idea with what it checks. Dropout stands where it is published, at rate zero: a
test that wants it hooks in.
"""

import math

from tests.torch_reference import torch

nn = torch.nn


class Norm(nn.Module):
    """A layer on normalised input, under the names `norm` and `fn`."""

    def __init__(self, dim, fn):
        super().__init__()
        self.norm, self.fn = nn.LayerNorm(dim), fn

    def forward(self, x):
        return self.fn(self.norm(x))


class Residual(nn.Module):
    """What a layer adds to its input, under the name `fn`."""

    def __init__(self, fn):
        super().__init__()
        self.fn = fn

    def forward(self, x):
        return x + self.fn(x)


class Attention(nn.Module):
    """Attention head by head: to_qkv holds q, k and v one after the other, each with its heads one after the other."""

    def __init__(self, dim, heads, dim_head, dropout):
        super().__init__()
        self.heads, self.size = heads, dim_head
        self.to_qkv = nn.Linear(dim, 3 * heads * dim_head, bias=False)
        self.to_out = nn.Sequential(nn.Linear(heads * dim_head, dim), nn.Dropout(dropout))

    def forward(self, x):
        every = self.to_qkv(x)
        width = self.heads * self.size
        outs = []
        for h in range(self.heads):
            q, k, v = (every[..., i * width + h * self.size :][..., : self.size] for i in range(3))
            weights = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(self.size), dim=-1)
            outs.append(weights @ v)
        return self.to_out(torch.cat(outs, dim=-1))


class Mlp(nn.Module):
    """Two linear layers, an exact GELU between them, under the names net.0 and net.3."""

    def __init__(self, dim, hidden, dropout):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(dim, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, dim), nn.Dropout(dropout)
        )

    def forward(self, x):
        return self.net(x)


class Transformer(nn.Module):
    """Residual blocks; with `drophead` p, evaluation leaves out layer 1 and every (1/p)-th after it."""

    def __init__(self, dim, depth, heads, dim_head, mlp_dim, dropout, drophead=0.0):
        super().__init__()
        self.drophead = drophead
        self.layers = nn.ModuleList(
            nn.ModuleList(
                Residual(Norm(dim, fn)) for fn in (Attention(dim, heads, dim_head, dropout), Mlp(dim, mlp_dim, dropout))
            )
            for _ in range(depth)
        )

    def forward(self, x):
        for i, (attend, feed) in enumerate(self.layers):
            if self.drophead and not self.training and i % round(1 / self.drophead) == 1:
                continue
            x = feed(attend(x))
        return x


def cells(image_size, size):
    """Count cubes of `size` in an image: of one side, or of three."""
    sides = (image_size,) * 3 if isinstance(image_size, int) else image_size
    return math.prod(side // size for side in sides)


def patches(x, size):
    """Cut volumes (b, c, d, h, w) into (b, patches, size * size * size * c), channel last, by loops."""
    cut = []
    for i in range(0, x.shape[2], size):
        for j in range(0, x.shape[3], size):
            for k in range(0, x.shape[4], size):
                patch = x[:, :, i : i + size, j : j + size, k : k + size]
                cut.append(patch.permute(0, 2, 3, 4, 1).flatten(1))
    return torch.stack(cut, dim=1)


class _ViT(nn.Module):
    def __init__(self, image_size, patch_size, num_classes, dim, depth, heads, dim_head, mlp_dim, channels, drophead):
        super().__init__()
        self.patch = patch_size
        count = cells(image_size, patch_size)
        self.to_patch_embedding = nn.Sequential(nn.Identity(), nn.Linear(channels * patch_size**3, dim))
        self.pos_embedding = nn.Parameter(torch.randn(1, count + 1, dim))
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim))
        self.transformer = Transformer(dim, depth, heads, dim_head, mlp_dim, 0.0, drophead)
        self.dropout = nn.Dropout(0.0)
        self.mlp_head = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, num_classes))

    def forward(self, x, block_embedding):
        x = self.to_patch_embedding(patches(x, self.patch))
        x = torch.cat([self.cls_token.expand(len(x), 1, -1), x], dim=1) + self.pos_embedding + block_embedding
        return self.mlp_head(self.transformer(self.dropout(x))[:, 0])


class MINiT(nn.Module):
    """One small transformer on each block of a cube, its logits joined by one linear layer."""

    def __init__(
        self,
        block_size,
        image_size,
        patch_size,
        num_classes,
        dim,
        depth,
        heads,
        dim_head,
        mlp_dim,
        channels=1,
        drophead=0.0,
    ):
        super().__init__()
        self.block = block_size
        blocks, tokens = cells(image_size, block_size), cells(block_size, patch_size) + 1
        self.block_embeddings = nn.Parameter(torch.randn(blocks, tokens, dim))
        self.vit = _ViT(block_size, patch_size, num_classes, dim, depth, heads, dim_head, mlp_dim, channels, drophead)
        self.linear = nn.Linear(blocks * num_classes, num_classes)

    def forward(self, x):
        logits, number = [], 0
        for i in range(0, x.shape[2], self.block):
            for j in range(0, x.shape[3], self.block):
                for k in range(0, x.shape[4], self.block):
                    part = x[:, :, i : i + self.block, j : j + self.block, k : k + self.block]
                    logits.append(self.vit(part, self.block_embeddings[number]))
                    number += 1
        return self.linear(torch.cat(logits, dim=1))


class NiT(nn.Module):
    """One transformer on the patches of the whole cube; the distillation parts take no part."""

    def __init__(self, image_size, patch_size, num_classes, dim, depth, heads, dim_head, mlp_dim, channels=1):
        super().__init__()
        self.patch = patch_size
        count = cells(image_size, patch_size)
        self.pos_embedding = nn.Parameter(torch.randn(1, count + 1, dim))
        self.patch_to_embedding = nn.Linear(channels * patch_size**3, dim)
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim))
        self.distill_token = nn.Parameter(torch.randn(1, 1, dim))
        self.transformer = Transformer(dim, depth, heads, dim_head, mlp_dim, 0.0)
        self.dropout = nn.Dropout(0.0)
        self.mlp_head = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, num_classes))
        self.distill = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, num_classes))

    def forward(self, x):
        x = self.patch_to_embedding(patches(x, self.patch))
        x = torch.cat([self.cls_token.expand(len(x), 1, -1), x], dim=1) + self.pos_embedding
        return self.mlp_head(self.transformer(self.dropout(x))[:, 0])
