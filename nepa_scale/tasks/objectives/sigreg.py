"""SIGReg: the distance of features from an isotropic Gaussian, which keeps a learned target from collapsing.

Sketched isotropic Gaussian regularisation of LeJEPA (arXiv 2511.08544, section 4). Features are isotropic Gaussian
exactly if every projection onto a line is N(0, 1) (Cramér-Wold), so they are projected onto random directions, and each
projection is tested by the statistic of Epps and Pulley (1983): how far its empirical characteristic function is from
the Gaussian's. LeNEPA (arXiv 2607.00958) puts it in the place of next-embedding prediction's stop-gradient and tests
the tokens within each sample.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nepa_scale.tasks.objectives.cost import NODES, SLICES

#: Characteristic functions are compared from 0 to here: both are symmetric, and their weight exp(-t^2 / 2) is small
#: beyond (LeJEPA's code).
LARGEST_NODE = 3.0


def random_slices(width: int, device: torch.device) -> Tensor:
    """Draw ``SLICES`` directions, unit vectors in the columns of [width, SLICES], from torch's global generator."""
    return F.normalize(torch.randn(width, SLICES, device=device), dim=0)


def sigreg(features: Tensor, slices: Tensor) -> Tensor:
    """Return the Epps-Pulley statistic of N features against N(0, 1), averaged over images and slices; a scalar.

    For x_1 ... x_N, the features [B, N, D] of one image on one of the slices [D, M]:
    N * integral over t of |mean_n exp(i t x_n) - exp(-t^2 / 2)|^2 exp(-t^2 / 2) dt, by the trapezoidal rule.
    On average 1.05 for samples of N(0, I), whatever N, and growing with N for anything else. In fp32 always.
    """
    nodes = torch.linspace(0, LARGEST_NODE, NODES, device=features.device)
    gaussian = torch.exp(-nodes.square() / 2)
    with torch.autocast(features.device.type, enabled=False):
        phases = (features.float() @ slices)[..., None] * nodes  # [B, N, M, nodes]
    distance = (phases.cos().mean(1) - gaussian).square() + phases.sin().mean(1).square()
    both_sides = 2 * torch.trapezoid(distance * gaussian, nodes)  # of t and -t
    return features.shape[1] * both_sides.mean()
