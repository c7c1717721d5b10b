"""Start a LeanVAE as the best linear codec: the principal components of the training clips.

Residual branches start at zero, the first token features of either band carry its share of the leading principal
components of a patch, the measurement adds the two shares up, and the un-patch layers are the transposes. Step 0
then equals the optimal linear transform of the same rate; the network learns what a linear transform cannot do.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..networks.leanvae import LeanVAE, Stack, haar_image, haar_video

ROOT2 = 2**0.5


def _patches(bands: Tensor, depth: int) -> Tensor:
    """``(B, S, T, H, W)`` sub-bands of one grey channel -> ``(N, features)`` in the network's feature order."""
    x = bands.unfold(2, depth, depth).unfold(3, 4, 4).unfold(4, 4, 4)  # B S t h w k i j
    return x.permute(0, 2, 3, 4, 1, 5, 6, 7).flatten(4).flatten(0, 3)


def _leading(x: Tensor, count: int) -> Tensor:
    """The leading principal directions of ``(N, features)``, as rows; zero rows where there are no more."""
    _, vectors = torch.linalg.eigh(x.T @ x)
    rows = vectors.flip(1)[:, :count].T
    return torch.cat((rows, rows.new_zeros(count - len(rows), rows.shape[1])))


@torch.no_grad()
def start_from_principal_components(net: LeanVAE, clips_BCTHW: Tensor) -> None:
    """Initialise ``net`` (one channel) in place; ``clips`` are (B, 1, T, H, W) in [-0.5, 0.5]."""
    spec = net.spec
    stacks: list[Any] = [module for module in net.modules() if isinstance(module, Stack)]
    for stack in stacks:
        for dconv, ffd in zip(stack.dconv_layer, stack.ffd_layer, strict=True):
            nn.init.zeros_(dconv.ds_conv.bias)
            if stack.residual:
                nn.init.zeros_(dconv.ds_conv.weight)
                nn.init.zeros_(ffd[4].weight)
            else:
                nn.init.normal_(dconv.ds_conv.weight, std=0.05)
                dconv.ds_conv.weight[:, 0, 2, 1, 1] += 1.0
    backwards: Any = net.latent_bottleneck.backward_l
    for backward in backwards:
        nn.init.zeros_(backward.ffd_layer[-1][4].weight)

    share = torch.eye(spec.latent_dim) / ROOT2
    phi = torch.zeros(spec.latent_dim, spec.width)
    phi[:, : spec.latent_dim] = phi[:, spec.l_dim : spec.l_dim + spec.latent_dim] = share
    net.latent_bottleneck.phi.copy_(phi)
    net.latent_bottleneck.Q.copy_(phi.T)

    frames = clips_BCTHW.double().transpose(1, 2).flatten(0, 1)
    kinds = (  # scales that bring tokens of either kind to about unit size
        ("video", haar_video(clips_BCTHW[:, :, 1:].double()), 2, 1 / 8),
        ("image", haar_image(frames)[:, :, None], 1, ROOT2 / 4),
    )
    for kind, bands, depth, scale in kinds:
        low, high = _patches(bands[:, :1], depth), _patches(bands[:, 1:], depth)
        components = _leading(torch.cat((low, high), dim=1), spec.latent_dim)
        parts = (
            ("low", low, components[:, : low.shape[1]], spec.l_dim),
            ("high", high, components[:, low.shape[1] :], spec.h_dim),
        )
        for part, x, shares, width in parts:
            rows = torch.cat((shares * ROOT2, _leading(x, width - spec.latent_dim)))
            encoder = getattr(net.encoder, f"{kind}_{part}_proj")[1]
            decoder = getattr(net.decoder, f"{kind}_{part}_proj")[0]
            encoder.weight.copy_(rows * scale)
            decoder.weight.copy_(rows.T / scale)
            nn.init.zeros_(encoder.bias)
            nn.init.zeros_(decoder.bias)
