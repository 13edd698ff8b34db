"""The U-Net and the chain around it, in torch: raw slice in, mask and probability out.

Design Notes
------------
*What the network sees.* A slice is cut into blocks of ``reduction`` x ``reduction`` pixels. Each
block gives its mean and the logarithm of its variance. Both are measured against the slice's own
noise: the median block variance, never less than `COUNT_NOISE` counts squared. So gain, bit depth
and camera offset drop out, and an empty field, whatever its brightness, looks the same to the
network: means near 0 and log variances scattered round 0. It is not stretched to full contrast,
which is what makes a network see focus in noise.

*Why a Hadamard transform.* Block variance as E[x^2] - E[x]^2 loses everything to rounding in
float32 when 16-bit counts sit on a high offset. The Hadamard transform of a block is sums and
differences of at most 16 x 65535, below 2^24, hence exact in float32; its first coefficient is the
mean, and the squares of the others add up to the variance.

*Edges.* Blocks that the slice does not fill are not computed: the feature map is extended by its
own edge to the multiple of eight that three halvings need, and the result is cropped.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepfocus_live.errors import InputError

__all__ = ["COUNT_NOISE", "Architecture", "BlockStem", "FocusNetwork", "UNet"]

COUNT_NOISE = 0.25
"""Counts squared; what is added to every variance, so that a constant field has a finite log."""

_STATISTICS_STRIDE = 4  # every 4th block each way is enough for a median, and 16 times cheaper


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
        2 or 4.
    """

    base_channels: int = 16
    levels: int = 3
    reduction: int = 4

    def __post_init__(self) -> None:
        if self.reduction not in (2, 4):
            raise InputError(f"reduction is {self.reduction}; the network knows 2 and 4")
        if self.base_channels < 1 or self.levels < 1:
            raise InputError(
                f"a network needs at least one channel and one level, not "
                f"{self.base_channels} and {self.levels}"
            )

    def as_dict(self) -> dict[str, int]:
        """Return the fields as plain numbers, for a card."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Architecture:
        """Read what `as_dict` wrote.

        Raises
        ------
        InputError
            If a field is unknown or is not a whole number.
        """
        try:
            return cls(**{key: int(value) for key, value in fields.items()})
        except (TypeError, ValueError) as error:
            raise InputError(f"the card's architecture {fields} is not one of ours") from error


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
        self.stem = BlockStem(architecture.reduction)
        self.unet = UNet(2, architecture.base_channels, architecture.levels)
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
        (N, 2, h, w) float32
            h and w are multiples of 2**levels, H / reduction and W / reduction at least.
        """
        mean, variance = self.stem(counts)
        level, floor = self.stem.noise(mean, variance) if noise is None else noise
        features = self.stem.features(mean, variance, level, floor)
        height, width = self._low_shape(counts)
        multiple = 2**self.architecture.levels
        padded_h = (height + multiple - 1) // multiple * multiple
        padded_w = (width + multiple - 1) // multiple * multiple
        pad = (0, padded_w - mean.shape[2], 0, padded_h - mean.shape[1])
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
        n, h, w = inside.shape
        # Each block's answer, repeated over its pixels. ONNX Runtime joins copies eight times
        # faster than it expands or resizes.
        rows = torch.cat([inside[:, :, :, None]] * r, dim=3).reshape(n, h, 1, w * r)
        full = torch.cat([rows] * r, dim=2).reshape(n, h * r, w * r)
        return full[:, : z_slice.shape[1], : z_slice.shape[2]], low


class BlockStem(nn.Module):
    """Mean and variance of every block, and the two feature maps made of them."""

    hadamard: Tensor
    energy: Tensor

    def __init__(self, reduction: int) -> None:
        super().__init__()
        self.reduction = reduction
        size = reduction * reduction
        rows = _hadamard(size).reshape(size, 1, reduction, reduction)
        weights = torch.full((1, size, 1, 1), 1.0 / size**2)
        weights[0, 0] = 0.0  # the first coefficient is the mean, no part of the variance
        self.register_buffer("hadamard", rows, persistent=False)
        self.register_buffer("energy", weights, persistent=False)

    def forward(self, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean (counts) and variance (counts squared, raised by `COUNT_NOISE`) of blocks.

        Parameters
        ----------
        counts : (N, H, W) float32

        Returns
        -------
        two of (N, H // reduction, W // reduction) float32
        """
        coefficients = F.conv2d(counts[:, None], self.hadamard, stride=self.reduction)
        mean = coefficients[:, 0] / self.reduction**2
        variance = F.conv2d(coefficients * coefficients, self.energy)[:, 0]
        return mean, variance + COUNT_NOISE

    def noise(self, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """Return each slice's level and noise variance: medians over blocks, each (N,) float32."""
        step = _STATISTICS_STRIDE
        return _median(mean[:, ::step, ::step]), _median(variance[:, ::step, ::step])

    def features(self, mean: Tensor, variance: Tensor, level: Tensor, floor: Tensor) -> Tensor:
        """Return what the U-Net sees, (N, 2, h, w) float32, without unit.

        The first map is the mean above the slice's level in units of its noise, compressed like a
        logarithm on either side of 0; the second the logarithm of the variance over the noise's.
        """
        level, floor = level[:, None, None], floor[:, None, None]
        height = (mean - level) * torch.rsqrt(floor)
        compressed = torch.sign(height) * torch.log1p(torch.abs(height))
        return torch.stack((compressed, torch.log(variance / floor)), dim=1)


class UNet(nn.Module):
    """Encoder levels, a bottleneck, and as many decoder levels; logits of one class.

    Departs from the published network where it costs time without need: batch normalisation
    (folded into the convolutions at export) for instance normalisation, and a 1x1 convolution with
    nearest-neighbour doubling for the transposed convolution.
    """

    def __init__(self, inputs: int, base: int, levels: int) -> None:
        super().__init__()
        widths = [base * 2**level for level in range(levels + 1)]
        self.encoders = nn.ModuleList(
            _double_convolution(before, after)
            for before, after in zip([inputs, *widths[:-2]], widths[:-1], strict=True)
        )
        self.bottleneck = _double_convolution(widths[-2], widths[-1])
        self.narrow = nn.ModuleList(
            nn.Conv2d(2 * width, width, 1) for width in reversed(widths[:-1])
        )
        self.decoders = nn.ModuleList(
            _double_convolution(2 * width, width) for width in reversed(widths[:-1])
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
            # Narrowed before it is enlarged: a quarter of the multiplications, the same result.
            features = F.interpolate(narrow(features), scale_factor=2.0, mode="nearest")
            features = decoder(torch.cat((features, skips.pop()), dim=1))
        return cast("Tensor", self.head(features))


def _double_convolution(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
        nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def _hadamard(size: int) -> Tensor:
    """Return Sylvester's (size, size) matrix of +1 and -1; `size` a power of two."""
    matrix = torch.ones(1, 1)
    while matrix.shape[0] < size:
        matrix = torch.cat((torch.cat((matrix, matrix), 1), torch.cat((matrix, -matrix), 1)), 0)
    return matrix


def _median(maps: Tensor) -> Tensor:
    """Return the (upper) median of each (h, w) map of (N, h, w): as sort, which ONNX knows."""
    values = torch.sort(maps.flatten(1), dim=1).values
    return values[:, values.shape[1] // 2]
