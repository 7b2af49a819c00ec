"""The vision tower: SigLIP up to its feature layer, and the merging of view features into visual tokens.

A call runs all views of a batch at once: each rank of a sharded model must gather the same weights equally
often.

Shapes: N views, C channels, P patches of a view (side x side), S side, E vision width, W language width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from lladav.config.schema import VisionConfig
from lladav.inputs.images import Merge, ViewGeometry, merge_geometry
from lladav.inputs.samples import VisualKind, VisualShape
from lladav.model.siglip import Siglip


class VisionTower(nn.Module):
    """SigLIP without the layers behind its feature layer, and without its pooling head."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.vision_model = Siglip(config, built_layers(config))
        self.vision_model.post_layernorm.requires_grad_(False)

    def forward(self, views_NCHW: Tensor) -> Tensor:
        """Features (N, P, E) of uint8 views."""
        dtype = self.vision_model.embeddings.patch_embedding.weight.dtype
        return self.vision_model(views_NCHW.to(dtype).div_(127.5).sub_(1.0))

    def checkpoint_activations(self, enabled: bool) -> None:
        """Keep only each layer's input for the backward pass."""
        self.vision_model.encoder.activation_checkpointing = enabled


def built_layers(config: VisionConfig) -> int:
    """Layers up to the feature layer: all for -1, all but the last for -2."""
    return config.layers + 1 + config.feature_layer


def only_used_layers(config: VisionConfig) -> VisionConfig:
    """The same tower without the layers behind the feature layer, as it is exported."""
    return replace(config, layers=built_layers(config), feature_layer=-1)


def merge_views(
    features_NPW: Tensor, shapes: Sequence[VisualShape], newline_W: Tensor, geometry: ViewGeometry
) -> Tensor:
    """Visual tokens (V, W) of images and videos in order, newlines included; P patches of N projected views.

    Features and newline stay in the graph even if no image uses them: a gradient must exist on every rank.
    """
    used = sum(shape.views for shape in shapes)
    parts = features_NPW[:used].split([shape.views for shape in shapes])
    tokens = [_merge(part, shape, newline_W, geometry) for part, shape in zip(parts, shapes, strict=True)]
    no_tokens_0W = features_NPW.flatten(0, 1)[:0] + newline_W
    return torch.cat((*tokens, no_tokens_0W))


def _merge(features_NPW: Tensor, shape: VisualShape, newline_W: Tensor, geometry: ViewGeometry) -> Tensor:
    if shape.kind is VisualKind.tiled:
        return _merge_tiles(
            features_NPW, merge_geometry(shape.width, shape.height, geometry), newline_W, geometry.side
        )
    if shape.kind is VisualKind.video:
        return _merge_frames(features_NPW, newline_W, geometry)
    tokens = features_NPW.flatten(0, 1)
    return torch.cat((tokens, newline_W[None])) if shape.kind is VisualKind.padded else tokens


def _merge_tiles(features_NPW: Tensor, merge: Merge, newline_W: Tensor, side: int) -> Tensor:
    base, tiles = features_NPW[0], features_NPW[1:]
    grid = tiles.unflatten(0, (merge.rows, merge.columns)).unflatten(2, (side, side))
    stitched_WSS = grid.permute(4, 0, 2, 1, 3).flatten(3, 4).flatten(1, 2)
    kept = stitched_WSS[:, merge.top : stitched_WSS.shape[1] - merge.top]
    kept = kept[:, :, merge.left : stitched_WSS.shape[2] - merge.left]
    if kept.shape[1:] != (merge.height, merge.width):
        kept = interpolate(kept[None], (merge.height, merge.width), mode="bilinear")[0]
    return torch.cat((base, _with_newlines(kept.permute(1, 2, 0), newline_W)))


def _merge_frames(features_NPW: Tensor, newline_W: Tensor, geometry: ViewGeometry) -> Tensor:
    maps_NWSS = features_NPW.unflatten(1, (geometry.side, geometry.side)).permute(0, 3, 1, 2)
    pooled = interpolate(maps_NWSS, (geometry.frame_side, geometry.frame_side), mode="bilinear").permute(
        0, 2, 3, 1
    )
    if geometry.newline_per_frame_row:
        return _with_newlines(pooled.flatten(0, 1), newline_W)
    return torch.cat((pooled.flatten(0, 2), newline_W[None]))


def _with_newlines(map_HSW: Tensor, newline_W: Tensor) -> Tensor:
    """Concatenate the rows of a feature map, with a newline behind each."""
    newlines = newline_W.expand(map_HSW.shape[0], 1, -1)
    return torch.cat((map_HSW, newlines), dim=1).flatten(0, 1)
