"""The switches of next-embedding prediction against the same written out token by token, gradients included."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from nepa_scale.config.ladder import architecture
from nepa_scale.config.task_settings import PretrainConfig
from nepa_scale.models.build import build_backbone
from nepa_scale.models.objective import next_embedding_loss
from nepa_scale.tasks.knn import Neighbours
from nepa_scale.tasks.next_embedding import NextEmbedding, random_slices, sigreg


def pair(batch: int = 3, tokens: int = 7, width: int = 4) -> tuple[Tensor, Tensor]:
    """Embeddings and predictions [B, T, D] in float64."""
    generator = torch.Generator().manual_seed(0)
    z, z_hat = (torch.randn(batch, tokens, width, generator=generator, dtype=torch.float64) for _ in range(2))
    return z.requires_grad_(), z_hat.requires_grad_()


def unit(x: Tensor) -> Tensor:
    return x / x.square().sum().sqrt()


def plain_distance(prediction: Tensor, own: int, targets: Tensor, distance: str, temperature: float) -> Tensor:
    """What sets one prediction [D] apart from targets[own], of the targets [T, D] of its image."""
    if distance == "cosine":
        return -(unit(prediction) * unit(targets[own])).sum()
    if distance == "mse":
        return (prediction - targets[own]).square().sum() / len(prediction)
    scores = [(unit(prediction) * unit(target)).sum() / temperature for target in targets]
    return torch.stack(scores).exp().sum().log() - scores[own]


def plain_loss(z: Tensor, z_hat: Tensor, offset: int, distance: str, temperature: float) -> Tensor:
    """The mean over all pairs of output and target that lie ``offset`` apart, in float64."""
    z = z.detach()
    terms = [
        plain_distance(z_hat[image, t], t, z[image, offset:], distance, temperature)
        for image in range(len(z))
        for t in range(z.shape[1] - offset)
    ]
    return torch.stack(terms).mean()


@pytest.mark.parametrize("offset", [1, 3])
@pytest.mark.parametrize("distance", ["cosine", "mse", "infonce"])
def test_each_distance_is_what_it_says(distance: str, offset: int) -> None:
    """Loss and gradient of cosine, MSE and InfoNCE equal those written out; stopped targets get none."""
    z, z_hat = pair()
    loss = next_embedding_loss(z, z_hat, offset=offset, distance=distance, temperature=0.2)
    expected = plain_loss(z, z_hat, offset, distance, 0.2)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)
    gradient, of_z = torch.autograd.grad(loss, [z_hat, z], allow_unused=True)
    (wanted,) = torch.autograd.grad(expected, z_hat)
    torch.testing.assert_close(gradient, wanted, rtol=1e-5, atol=1e-6)
    assert of_z is None


class Products(TorchDispatchMode):
    """Notes at which of torch's precisions each matrix product of fp32 is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.precisions: dict[str, set[str]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.bmm, torch.ops.aten.addmm):
            precisions = self.precisions.setdefault(func.overloadpacket.__name__, set())
            precisions.add(torch.get_float32_matmul_precision())
        return func(*args, **(kwargs or {}))


@pytest.fixture
def _products_may_be_tf32() -> Iterator[None]:
    torch.set_float32_matmul_precision("high")  # as the runner does on GPUs
    yield
    torch.set_float32_matmul_precision("highest")


@pytest.mark.usefixtures("_products_may_be_tf32")
def test_products_of_losses_and_neighbours_are_plain_fp32() -> None:
    """Also where those of training are TF32, to which training returns: InfoNCE's, SIGReg's and k-NN's."""
    section = PretrainConfig(distance="infonce", horizon=2)
    module = NextEmbedding(build_backbone(architecture("femto", 4), 16), section)
    with Products() as of_training:
        module(torch.randn(2, 3, 16, 16)).backward()
    assert of_training.precisions["bmm"] == {"highest", "high"}  # forwards and backwards: blocks have none
    assert of_training.precisions["addmm"] == {"high"}
    with Products() as of_others:
        sigreg(torch.randn(2, 5, 4), random_slices(4, torch.device("cpu")))
        neighbours = Neighbours(torch.randn(3, 4), 2)
        neighbours.add(torch.randn(5, 4), torch.zeros(5, dtype=torch.int64), torch.arange(5))
    assert of_others.precisions == {"mm": {"highest"}}
    assert torch.get_float32_matmul_precision() == "high"


def plain_sigreg(features: np.ndarray, slices: np.ndarray) -> float:
    """N times the weighted squared distance of characteristic functions, by complex numbers and scipy's rule."""
    t, statistics = np.linspace(-3, 3, 33), []
    for image in features:
        for direction in slices.T:
            empirical = np.mean([np.exp(1j * t * (x @ direction)) for x in image], axis=0)
            distance = np.abs(empirical - np.exp(-(t**2) / 2)) ** 2 * np.exp(-(t**2) / 2)
            statistics.append(len(image) * integrate.trapezoid(distance, t))
    return float(np.mean(statistics))


def test_sigreg_is_the_statistic_of_epps_and_pulley() -> None:
    """The value equals the definition in complex numbers; its gradient, differences of that definition."""
    torch.manual_seed(0)
    slices = random_slices(4, torch.device("cpu"))
    torch.testing.assert_close(slices.norm(dim=0), torch.ones(slices.shape[1]))
    features = torch.randn(2, 5, 4).cumsum(1).requires_grad_()
    value = sigreg(features, slices)
    at, few = features.detach().double().numpy(), slices.double().numpy()
    assert value.item() == pytest.approx(plain_sigreg(at, few), rel=1e-5)
    (gradient,) = torch.autograd.grad(value, features)
    for place in [(0, 0, 0), (1, 4, 2), (0, 3, 3)]:
        step = np.zeros_like(at)
        step[place] = 1e-4
        slope = (plain_sigreg(at + step, few) - plain_sigreg(at - step, few)) / 2e-4
        assert gradient[place].item() == pytest.approx(slope, rel=1e-3, abs=1e-4)


def test_sigreg_tells_a_gaussian_from_anything_else() -> None:
    """Samples of N(0, I) have the mean that theory gives, whatever their number; collapsed or narrow ones more."""
    torch.manual_seed(0)
    slices = random_slices(8, torch.device("cpu"))
    t = np.linspace(0, 3, 301)
    expected = 2 * integrate.trapezoid((1 - np.exp(-(t**2))) * np.exp(-(t**2) / 2), t)
    values = [sigreg(torch.randn(400, count, 8), slices).item() for count in (16, 128)]
    assert values == pytest.approx([expected, expected], rel=0.05)
    assert sigreg(torch.ones(4, 128, 8), slices) > 20 * expected
    assert sigreg(0.1 * torch.randn(4, 128, 8), slices) > 20 * expected


def trained(module_settings: dict[str, Any], change: Callable[[NextEmbedding], None] = lambda _: None) -> NextEmbedding:
    """A module in training with weights that matter."""
    module = NextEmbedding(
        build_backbone(architecture("femto", 4), 24, rope_rescale=None), PretrainConfig(**module_settings)
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(float(parameter.ndim == 1) + 0.3 * torch.randn(parameter.shape, generator=generator))
    change(module)
    return module.train()


def test_horizon_averages_over_the_next_embeddings() -> None:
    """With K = 3 output t is z[t + 1] by itself, z[t + 2] and z[t + 3] by its own layers; all parameters learn."""
    module = trained({"horizon": 3})
    images = torch.randn(2, 3, 24, 24, generator=torch.Generator().manual_seed(2))
    loss = module(images)
    z, z_hat = module.backbone.next_embeddings(images)
    assert module.ahead is not None
    second, third = (z_hat @ weight.T + bias for weight, bias in zip(*_halves(module), strict=True))
    terms = [
        plain_loss(z.double(), prediction.double(), k, "cosine", 1.0)
        for k, prediction in enumerate((z_hat, second, third), start=1)
    ]
    expected = torch.stack(terms).mean()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)
    weight = module.ahead.weight
    torch.testing.assert_close(
        *(torch.autograd.grad(value, weight, retain_graph=True)[0] for value in (loss, expected)), atol=1e-6, rtol=1e-4
    )
    loss.backward()
    assert [name for name, p in module.named_parameters() if p.grad is None or not p.grad.abs().sum()] == []


def _halves(module: NextEmbedding) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    assert module.ahead is not None
    return module.ahead.weight.chunk(2), module.ahead.bias.chunk(2)


def test_sigreg_is_added_in_training_and_reaches_the_targets() -> None:
    """Loss = cosine + w (SIGReg of embeddings + of outputs) / 2 over patches; an evaluation leaves it out."""
    module = trained({"sigreg": 0.5, "stop_gradient": False})
    images = torch.randn(2, 3, 24, 24, generator=torch.Generator().manual_seed(2))
    torch.manual_seed(7)
    loss = module(images)
    torch.manual_seed(7)
    slices = random_slices(32, torch.device("cpu"))
    z, z_hat = module.backbone.next_embeddings(images)
    both = [sigreg(x, slices) for x in (z[:, 1:], z_hat[:, 1:-1])]
    plain = next_embedding_loss(z, z_hat, stop_gradient=False)
    assert loss.item() == pytest.approx(plain.item() + 0.25 * sum(value.item() for value in both), rel=1e-5)
    state = torch.get_rng_state()
    assert module.eval()(images).item() == pytest.approx(plain.item(), abs=1e-6)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("settings", [{"distance": "mse"}, {"distance": "infonce"}, {"horizon": 2}], ids=str)
def test_evaluation_reports_the_loss_that_is_trained(settings: dict[str, Any]) -> None:
    """Beside skill and cosines, the loss of a variant is the mean of its own over all images."""
    module = trained(settings).eval()
    images = torch.randn(5, 3, 24, 24, generator=torch.Generator().manual_seed(2))
    sums = module.new_sums(torch.device("cpu"))
    with torch.no_grad():
        for part in images.split(3):
            sums.update(*module.scored(part))
        expected = module(images).item()
        cosine = -next_embedding_loss(*module.backbone.next_embeddings(images)).item()
    found = sums.compute()
    assert (found["loss"], found["cosine"]) == pytest.approx((expected, cosine), abs=1e-5)
    baseline = max(found["copy_baseline"], found["mean_baseline"])
    skill = 1 - expected / math.log(36) if "infonce" in settings.values() else (cosine - baseline) / (1 - baseline)
    assert found["skill"] == pytest.approx(skill, abs=1e-4)
