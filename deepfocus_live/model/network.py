"""The U-Net and the chain around it, in torch: raw slice in, mask and probability out.

Design Notes
------------
*What the network sees.* A slice is cut into blocks of ``reduction`` x ``reduction`` pixels. Each
block gives its mean, the logarithm of its variance and, with the stem "hadamard", all its detail as
it is, for how detail falls from coarse to fine tells sharp from blurred. All is measured against
the slice's own noise, never less than `COUNT_NOISE` counts squared. So gain, bit depth and camera
offset drop out, and an empty field, whatever its brightness, looks the same to the network: means
near 0 and log variances scattered round 0. It is not stretched to full contrast, which is what
makes a network see focus in noise.

*Whose noise.* "diagonal" takes the energy of diagonal neighbours, where lenses leave least and
noise as much as anywhere, in the quietest quarter of the blocks: a specimen that fills the field is
not taken for noise. "median" takes the median of all detail.

*Why a Hadamard transform.* Block variance as E[x^2] - E[x]^2 loses everything to rounding in
float32 when 16-bit counts sit on a high offset. The Hadamard transform of a block is sums and
differences of at most 16 x 65535, below 2^24, hence exact in float32; its first coefficient is the
mean, and the squares of the others add up to the variance.

*Edges.* Blocks that the slice does not fill are not computed: the feature map is extended by its
own edge to the multiple of eight that three halvings need, and the result is cropped.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepfocus_live.errors import InputError
from deepfocus_live.model._statistics import COUNT_NOISE, QUARTILE, STATISTICS_STRIDE

__all__ = [
    "COUNT_NOISE",
    "NETWORKS",
    "PUBLISHED",
    "Architecture",
    "BlockStem",
    "FocusNetwork",
    "UNet",
]

Stem = Literal["mean", "variance", "hadamard"]
Noise = Literal["median", "diagonal"]
Norm = Literal["batch", "instance"]
Upsampling = Literal["nearest", "transposed"]
_CHOICES = {"stem": Stem, "noise": Noise, "norm": Norm, "upsampling": Upsampling}


@dataclass(frozen=True)
class Architecture:
    """What is needed to build a network that fits stored weights.

    Parameters
    ----------
    base_channels : int
        Channels of the first level; doubled at each of the next.
    levels : int
        Encoder levels above the bottleneck; as many decoder levels.
    reduction : int
        Side of a block in pixels: the network works at 1/reduction of the slice's resolution.
        1, 2 or 4.
    stem : {"hadamard", "variance", "mean"}
        What a block gives: its mean, log variance and detail; its mean and log variance; or its
        mean. Blocks of one pixel have only a mean.
    noise : {"diagonal", "median"}
        From which detail the slice's noise is read.
    norm : {"batch", "instance"}
        Normalisation; only the first is folded into the convolutions at export.
    upsampling : {"nearest", "transposed"}
        1 x 1 convolution and doubling, or transposed convolution.

    Raises
    ------
    InputError
        If there is no such network.
    """

    base_channels: int = 16
    levels: int = 3
    reduction: int = 4
    stem: Stem = "hadamard"
    noise: Noise = "diagonal"
    norm: Norm = "batch"
    upsampling: Upsampling = "nearest"

    def __post_init__(self) -> None:
        if self.reduction not in (1, 2, 4):
            raise InputError(f"reduction is {self.reduction}; the network knows 1, 2 and 4")
        if self.base_channels < 1 or self.levels < 1:
            raise InputError(
                f"a network needs at least one channel and one level, not "
                f"{self.base_channels} and {self.levels}"
            )
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in get_args(choices):
                known = ", ".join(get_args(choices))
                raise InputError(f"{name} is {getattr(self, name)!r}; the network knows {known}")
        if self.reduction == 1 and self.stem != "mean":
            raise InputError(f"stem {self.stem!r} needs blocks of 2 or 4 pixels; give 'mean'")

    def as_dict(self) -> dict[str, int | str]:
        """Return the fields as plain values, for a card."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Architecture:
        """Read what `as_dict` wrote; fields that are missing have the values of the first networks.

        Raises
        ------
        InputError
            If a field is unknown or of the wrong kind.
        """
        # Written before there was a choice.
        whole = {"stem": "variance", "noise": "median", **values}
        numbers = {field.name for field in fields(cls)} - set(_CHOICES)
        try:
            typed: dict[str, Any] = {k: int(v) if k in numbers else v for k, v in whole.items()}
            return cls(**typed)
        except (TypeError, ValueError) as error:
            raise InputError(f"the card's architecture {values} is not one of ours") from error


PUBLISHED = Architecture(reduction=1, stem="mean", norm="instance", upsampling="transposed")
"""The paper's network: full resolution, instance normalisation, transposed convolutions."""

NETWORKS = {"standard": Architecture(), "published": PUBLISHED}
"""Networks to start anew with, by name."""


class FocusNetwork(nn.Module):
    """The whole chain from raw counts to mask and probability.

    Parameters
    ----------
    architecture : Architecture
    threshold : float
        Probability from which a pixel is in focus, 0..1.
    """

    threshold: Tensor

    def __init__(self, architecture: Architecture, *, threshold: float = 0.5) -> None:
        super().__init__()
        self.architecture = architecture
        self.stem = BlockStem(architecture)
        self.unet = UNet(self.stem.channels, architecture)
        # Kept as a buffer so that an exported graph carries it by name, where it can be replaced.
        self.register_buffer("threshold", torch.tensor(threshold * 255.0))

    def features(self, counts: Tensor, noise: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Return what the U-Net sees of raw counts. Not for autocast: counts need float32.

        Parameters
        ----------
        counts : (N, H, W) float32
            Raw camera counts; H and W at least 64.
        noise : ((N,) float32, (N,) float32), optional
            Level (counts) and noise variance (counts squared) to measure against. By default those
            of each slice itself; give the whole slice's where `counts` is a part of it.

        Returns
        -------
        (N, C, h, w) float32
            h and w are multiples of 2**levels, H / reduction and W / reduction at least.
        """
        coefficients = self.stem(counts)
        level, floor = self.stem.noise(counts, coefficients) if noise is None else noise
        features = self.stem.features(coefficients, level, floor)
        height, width = self._low_shape(counts)
        multiple = 2**self.architecture.levels
        padded_h = (height + multiple - 1) // multiple * multiple
        padded_w = (width + multiple - 1) // multiple * multiple
        pad = (0, padded_w - features.shape[3], 0, padded_h - features.shape[2])
        return F.pad(features, pad, mode="replicate")

    def logits(self, counts: Tensor) -> Tensor:
        """Return logits at the network's own resolution.

        Parameters
        ----------
        counts : (N, H, W) float32
            Raw camera counts; H and W at least 64.

        Returns
        -------
        (N, ceil(H / reduction), ceil(W / reduction)) float32
        """
        height, width = self._low_shape(counts)
        logits = self.unet(self.features(counts))
        return cast("Tensor", logits[:, 0, :height, :width])

    def _low_shape(self, counts: Tensor) -> tuple[int, int]:
        r = self.architecture.reduction
        return (counts.shape[1] + r - 1) // r, (counts.shape[2] + r - 1) // r

    def forward(self, z_slice: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the exported graph returns.

        Parameters
        ----------
        z_slice : (N, H, W) uint16
            Raw camera counts; H and W at least 64.

        Returns
        -------
        mask : (N, H, W) uint8
            1 in focus, 0 not.
        probability : (N, ceil(H / reduction), ceil(W / reduction)) uint8
            0..255, at the network's own resolution.
        """
        probability = torch.sigmoid(self.logits(z_slice.to(torch.float32))) * 255.0
        low = torch.round(probability).to(torch.uint8)
        r = self.architecture.reduction
        inside = (probability >= self.threshold).to(torch.uint8)
        if r == 1:
            return inside, low
        n, h, w = inside.shape
        # Each block's answer, repeated over its pixels. ONNX Runtime joins copies eight times
        # faster than it expands or resizes.
        rows = torch.cat([inside[:, :, :, None]] * r, dim=3).reshape(n, h, 1, w * r)
        full = torch.cat([rows] * r, dim=2).reshape(n, h * r, w * r)
        return full[:, : z_slice.shape[1], : z_slice.shape[2]], low


class BlockStem(nn.Module):
    """The Hadamard transform of every block, and the feature maps made of it.

    Parameters
    ----------
    architecture : Architecture
        Its `reduction`, `stem` and `noise` count.

    Attributes
    ----------
    channels : int
        Number of feature maps.
    """

    hadamard: Tensor
    energy: Tensor

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.reduction = architecture.reduction
        self.stem, self.measured = architecture.stem, architecture.noise
        size = self.reduction**2
        # Of unit norm: every coefficient of white noise has the noise's own deviation.
        self.scale = 1.0 / self.reduction
        rows = _hadamard(size).reshape(size, 1, self.reduction, self.reduction)
        # The first coefficient is the mean, no part of the variance.
        energy = torch.full((1, size, 1, 1), self.scale**2 / max(size - 1, 1))
        energy[0, 0] = 0.0
        self.register_buffer("hadamard", rows, persistent=False)
        self.register_buffer("energy", energy, persistent=False)
        self.channels = {"mean": 1, "variance": 2, "hadamard": size + 1}[self.stem]

    def forward(self, counts: Tensor) -> Tensor:
        """Return the blocks' Hadamard transforms, sums and differences of counts.

        Parameters
        ----------
        counts : (N, H, W) float32

        Returns
        -------
        (N, reduction**2, H // reduction, W // reduction) float32
            First the sum; exact for whole counts.
        """
        if self.reduction == 1:
            return counts[:, None]
        return F.conv2d(counts[:, None], self.hadamard, stride=self.reduction)

    def noise(self, counts: Tensor, coefficients: Tensor) -> tuple[Tensor, Tensor]:
        """Return each slice's level and noise variance, each (N,) float32.

        The level (counts) is the median over blocks; the noise (counts squared, raised by
        `COUNT_NOISE`) is of all detail or of diagonal detail only, as the architecture says.
        """
        step = STATISTICS_STRIDE
        if self.reduction == 1:
            # Pixels have no detail of their own: every fourth block of 4 x 4 is measured.
            whole = counts[:, : counts.shape[1] // 4 * 4, : counts.shape[2] // 4 * 4]
            coefficients, side = F.conv2d(whole[:, None], _blocks(4, counts), stride=4), 4
        else:
            side = self.reduction
        sparse = coefficients[:, :, ::step, ::step] / side
        level = _quantile(sparse[:, 0] / side, 2)
        if self.measured == "median":
            return level, _quantile((sparse[:, 1:] ** 2).mean(1) + COUNT_NOISE, 2)
        diagonal = (sparse[:, _diagonal(side)] ** 2).mean(1)
        return level, _quantile(diagonal, 1) / QUARTILE[side] + COUNT_NOISE

    def features(self, coefficients: Tensor, level: Tensor, floor: Tensor) -> Tensor:
        """Return what the U-Net sees, (N, channels, h, w) float32, without unit.

        The first map is the mean above the slice's level in units of its noise, compressed like a
        logarithm on either side of 0; the second the logarithm of the variance over the noise's;
        the others are the block's detail, compressed like the first.
        """
        level, floor = level[:, None, None, None], floor[:, None, None, None]
        amplitude = torch.rsqrt(floor)
        height = _compressed((coefficients[:, :1] * self.scale**2 - level) * amplitude)
        if self.stem == "mean":
            return height
        energy = F.conv2d(coefficients * coefficients, self.energy)
        maps = [height, torch.log((energy + COUNT_NOISE) / floor)]
        if self.stem == "hadamard":
            maps.append(_compressed(coefficients[:, 1:] * self.scale * amplitude))
        return torch.cat(maps, dim=1)


class UNet(nn.Module):
    """Encoder levels, a bottleneck, and as many decoder levels; logits of one class.

    By default it departs from the published network where that costs time without need: batch
    normalisation (folded into the convolutions at export) for instance normalisation, and a 1x1
    convolution with nearest-neighbour doubling for the transposed convolution.

    Parameters
    ----------
    inputs : int
        Feature maps.
    architecture : Architecture
    """

    def __init__(self, inputs: int, architecture: Architecture) -> None:
        super().__init__()
        base, norm = architecture.base_channels, architecture.norm
        widths = [base * 2**level for level in range(architecture.levels + 1)]
        self.transposed = architecture.upsampling == "transposed"
        self.encoders = nn.ModuleList(
            _double_convolution(before, after, norm)
            for before, after in zip([inputs, *widths[:-2]], widths[:-1], strict=True)
        )
        self.bottleneck = _double_convolution(widths[-2], widths[-1], norm)
        self.narrow = nn.ModuleList(
            nn.ConvTranspose2d(2 * width, width, 2, stride=2)
            if self.transposed
            else nn.Conv2d(2 * width, width, 1)
            for width in reversed(widths[:-1])
        )
        self.decoders = nn.ModuleList(
            _double_convolution(2 * width, width, norm) for width in reversed(widths[:-1])
        )
        self.head = nn.Conv2d(base, 1, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Return (N, 1, h, w) logits of (N, C, h, w) features; h, w multiples of 2**levels."""
        skips = []
        for encoder in self.encoders:
            features = encoder(features)
            skips.append(features)
            features = F.max_pool2d(features, 2)
        features = self.bottleneck(features)
        for narrow, decoder in zip(self.narrow, self.decoders, strict=True):
            features = narrow(features)
            if not self.transposed:
                # Narrowed before it is enlarged: a quarter of the multiplications, the same result.
                features = F.interpolate(features, scale_factor=2.0, mode="nearest")
            features = decoder(torch.cat((features, skips.pop()), dim=1))
        return cast("Tensor", self.head(features))


def _double_convolution(inputs: int, outputs: int, norm: Norm) -> nn.Sequential:
    def normalised() -> nn.Module:
        if norm == "batch":
            return nn.BatchNorm2d(outputs)
        return nn.InstanceNorm2d(outputs, affine=True)

    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        normalised(),
        nn.ReLU(inplace=True),
        nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
        normalised(),
        nn.ReLU(inplace=True),
    )


def _hadamard(size: int) -> Tensor:
    """Return Sylvester's (size, size) matrix of +1 and -1; `size` a power of two."""
    matrix = torch.ones(1, 1)
    while matrix.shape[0] < size:
        matrix = torch.cat((torch.cat((matrix, matrix), 1), torch.cat((matrix, -matrix), 1)), 0)
    return matrix


def _blocks(side: int, like: Tensor) -> Tensor:
    """Return the Hadamard transform of `side` x `side` blocks as convolution weights."""
    return _hadamard(side**2).reshape(side**2, 1, side, side).to(like)


def _diagonal(side: int) -> list[int]:
    """Return which coefficients of a block change sign between diagonal neighbours only.

    A coefficient changes sign between neighbouring rows if its bit `side` is set, between
    neighbouring columns if bit 1 is.
    """
    return [k for k in range(side**2) if k & side and k & 1]


def _compressed(values: Tensor) -> Tensor:
    """Return values compressed like a logarithm on either side of 0."""
    return torch.sign(values) * torch.log1p(torch.abs(values))


def _quantile(maps: Tensor, quarters: int) -> Tensor:
    """Return a quartile of each (h, w) map of (N, h, w): by sorting, which ONNX knows."""
    values = torch.sort(maps.flatten(1), dim=1).values
    # In whole numbers: a graph of any size cannot round.
    return values[:, values.shape[1] * quarters // 4]
