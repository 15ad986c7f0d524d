"""Conformer and QuartzNet: padding, attention, and the layers they are made of."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from rayconvai.asr.conformer import ConformerEncoder, SelfAttention, Variant
from rayconvai.asr.encoder import Encoder
from rayconvai.asr.masking import DepthwiseConv, MaskedBatchNorm
from rayconvai.asr.position import RelativeTable
from rayconvai.asr.quartznet import Block, QuartzNetEncoder
from rayconvai.core.attention import Rotary, length_mask, padding_scores
from rayconvai.core.dropout import Dropout, keep_mask

LENGTHS = (57, 23, 4, 1)
FEATURES = 20


def conformer(**variant: object) -> ConformerEncoder:
    sizes = {"d_model": 32, "num_layers": 2, "num_heads": 4, "conv_kernel_size": 7}
    return ConformerEncoder(in_features=FEATURES, variant=Variant(**variant), **sizes)  # type: ignore[arg-type]


def quartznet(norm: str = "batch") -> QuartzNetEncoder:
    blocks = [
        Block(channels=16, kernel_size=5, stride=2, residual=False),
        Block(channels=24, kernel_size=7, repeat=2),
        Block(channels=24, kernel_size=5, dilation=2, residual=False),
    ]
    return QuartzNetEncoder(in_features=FEATURES, blocks=blocks, norm=norm)  # type: ignore[arg-type]


ENCODERS = [
    pytest.param(conformer, id="conformer"),
    pytest.param(lambda: conformer(position="relative", conv_norm="batch", stem="image"), id="conformer_as_published"),
    pytest.param(lambda: conformer(subsampling=8), id="conformer_8x"),
    pytest.param(quartznet, id="quartznet"),
    pytest.param(lambda: quartznet("layer"), id="quartznet_layer_norm"),
]


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(len(LENGTHS), max(LENGTHS), FEATURES, generator=generator), torch.tensor(LENGTHS)


def settled(encoder: Encoder) -> Encoder:
    """Return the encoder in eval mode with norms that are not the identity."""
    features, lengths = batch()
    for _ in range(3):
        encoder(features=features, lengths=lengths)
    return encoder.eval()


@pytest.mark.parametrize("make", ENCODERS)
def test_padding_changes_nothing(make: type[Encoder]) -> None:
    torch.manual_seed(0)
    encoder, (features, lengths) = settled(make()), batch()  # type: ignore[call-arg]
    together, encoded_lengths = encoder(features=features, lengths=lengths)
    assert encoded_lengths.tolist() == [math.ceil(length / encoder.subsampling) for length in LENGTHS]
    assert together.shape[-1] == encoder.out_features
    for row, length in enumerate(LENGTHS):
        alone, _ = encoder(features=features[row : row + 1, :length], lengths=lengths[row : row + 1])
        torch.testing.assert_close(together[row, : encoded_lengths[row]], alone[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("make", ENCODERS)
def test_training_ignores_padding_too(make: type[Encoder]) -> None:
    """The same utterances with more padding give the same loss gradient (without dropout)."""
    torch.manual_seed(0)
    encoder, (features, lengths) = make(), batch()  # type: ignore[call-arg]
    for module in encoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    gradients = []
    for padding in (0, 40):
        padded = nn.functional.pad(features, (0, 0, 0, padding), value=5.0)
        encoded, encoded_lengths = encoder(features=padded, lengths=lengths)
        mask = length_mask(encoded_lengths, encoded.shape[1])[..., None]
        encoder.zero_grad()
        (encoded.square() * mask).mean(-1).sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in encoder.parameters() if p.grad is not None]))
    assert torch.isfinite(gradients[0]).all()
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("make", ENCODERS)
def test_autocast_bfloat16(make: type[Encoder]) -> None:
    torch.manual_seed(0)
    encoder, (features, lengths) = make(), batch()  # type: ignore[call-arg]
    with torch.autocast("cpu", torch.bfloat16):
        encoded, _ = encoder(features=features, lengths=lengths)
        encoded.float().square().mean().backward()
    assert torch.isfinite(encoded).all()
    settled(encoder)
    exact, encoded_lengths = encoder(features=features, lengths=lengths)
    with torch.autocast("cpu", torch.bfloat16):
        rough, _ = encoder(features=features, lengths=lengths)
    mask = length_mask(encoded_lengths, exact.shape[1])
    assert (rough.float() - exact)[mask].abs().mean() < 0.1 * exact[mask].abs().mean()


@pytest.mark.parametrize("make", ENCODERS)
def test_compiles_as_one_graph(make: type[Encoder]) -> None:
    torch.manual_seed(0)
    encoder, (features, lengths) = settled(make()), batch()  # type: ignore[call-arg]
    compiled = torch.compile(encoder, backend="eager", fullgraph=True)
    expected = encoder(features=features, lengths=lengths)
    torch.testing.assert_close(compiled(features=features, lengths=lengths), expected)


def reference_attention(layer: SelfAttention, x: Tensor, length: int) -> Tensor:
    """Transformer-XL's or rotary attention of one utterance, one pair of frames at a time."""
    heads, frames, size = layer.num_heads, len(x), x.shape[-1]
    width = size // heads
    query, key, value = layer.project(layer.norm(x)).view(frames, 3, heads, width).unbind(1)
    out = torch.zeros(frames, heads, width)
    rates = 10_000.0 ** (-torch.arange(0, width, 2) / width)
    for head in range(heads):
        for i in range(frames):
            scores = torch.full((frames,), -math.inf)
            for j in range(length):
                if layer.relative is None:
                    left, right = (
                        torch.complex(v[: width // 2], v[width // 2 :]) * torch.polar(torch.ones(len(rates)), t * rates)
                        for v, t in ((query[i, head], i), (key[j, head], j))
                    )
                    scores[j] = (left * right.conj()).real.sum()
                else:
                    angles = (i - j) * torch.exp(torch.arange(0, size, 2) * (-math.log(10_000.0) / size))
                    sinusoid = torch.stack((angles.sin(), angles.cos()), -1).flatten()
                    place = layer.relative.project(sinusoid).view(heads, width)[head]
                    content = query[i, head] + layer.relative.content_HK[head]
                    scores[j] = content @ key[j, head] + (query[i, head] + layer.relative.position_HK[head]) @ place
            out[i, head] = torch.softmax(scores / math.sqrt(width), 0) @ value[:, head]
    return layer.out(out.flatten(1))


@pytest.mark.parametrize("rotary", [True, False], ids=["rotary", "relative"])
def test_attention_is_the_naive_loop(rotary: bool) -> None:
    torch.manual_seed(0)
    frames, length, size, heads = 9, 6, 16, 2
    layer = SelfAttention(size, heads, rotary=rotary)
    if layer.relative is not None:
        nn.init.normal_(layer.relative.content_HK)
        nn.init.normal_(layer.relative.position_HK)
    table = (Rotary(size // heads) if rotary else RelativeTable(size))(frames)
    x = torch.randn(1, frames, size)
    padding = padding_scores(length_mask(torch.tensor([length]), frames), x.dtype)
    with torch.no_grad():
        torch.testing.assert_close(
            layer(x, padding, table)[0], reference_attention(layer, x[0], length), atol=1e-5, rtol=1e-4
        )


@pytest.mark.parametrize(
    ("kernel_size", "stride", "dilation"), [(5, 1, 1), (5, 2, 1), (5, 1, 3), (31, 1, 1), (33, 1, 1), (63, 1, 1)]
)
def test_depthwise_conv_is_conv1d_with_its_gradients(kernel_size: int, stride: int, dilation: int) -> None:
    """In float64, which oneDNN does not compute: it has given wrong gradients for long filters."""
    torch.manual_seed(0)
    layer = DepthwiseConv(16, kernel_size, stride=stride, dilation=dilation)
    x = torch.randn(2, 180, 16, requires_grad=True)
    x64, weight, bias = (part.detach().double().requires_grad_() for part in (x, layer.weight, layer.bias))
    expected = nn.functional.conv1d(
        x64.transpose(1, 2), weight, bias, stride, dilation * (kernel_size - 1) // 2, dilation, groups=16
    ).transpose(1, 2)
    actual = layer(x)
    signal = torch.randn_like(actual)
    actual.backward(signal)
    expected.backward(signal.double())
    for ours, theirs in ((actual, expected), (x.grad, x64.grad), (layer.weight.grad, weight.grad)):
        torch.testing.assert_close(ours.double(), theirs, atol=1e-4, rtol=1e-4)  # type: ignore[union-attr]


def test_masked_batch_norm_is_batch_norm_of_the_frames() -> None:
    torch.manual_seed(0)
    mask = length_mask(torch.tensor([7, 3]), 7)
    x = torch.randn(2, 7, 5) * 3 + 2
    ours, theirs = MaskedBatchNorm(5), nn.BatchNorm1d(5)
    torch.testing.assert_close(ours(x, mask[..., None].float())[mask], theirs(x[mask]), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(ours.running_var, theirs.running_var)
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    ours.eval(), theirs.eval()
    torch.testing.assert_close(ours(x, mask[..., None].float())[mask], theirs(x[mask]), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.001])
def test_dropout_keeps_the_expectation_and_the_seed(p: float) -> None:
    torch.manual_seed(0)
    mask = keep_mask(torch.zeros(1001, 999), p)
    assert float((mask == 0).float().mean()) == pytest.approx(max(p, 1 / 256), abs=3e-3)
    assert float(mask.mean()) == pytest.approx(1, abs=5e-3)
    torch.manual_seed(0)
    assert torch.equal(keep_mask(torch.zeros(1001, 999), p), mask)
    layer, x = Dropout(p), torch.ones(3, 5)
    assert torch.equal(layer.eval()(x), x)
    torch.testing.assert_close(layer.add_to(x, x, alpha=0.5), 1.5 * x)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(
            lambda: ConformerEncoder(in_features=8, d_model=30, num_heads=4), "multiple of num_heads", id="heads"
        ),
        pytest.param(lambda: conformer(subsampling=3), "subsampling must be 2, 4 or 8", id="subsampling"),
        pytest.param(lambda: DepthwiseConv(4, 4), "must be odd", id="even_kernel"),
        pytest.param(lambda: QuartzNetEncoder(in_features=8, blocks=[]), "blocks is empty", id="no_blocks"),
        pytest.param(lambda: Block(channels=8, kernel_size=3, stride=2), "residual=false", id="strided_residual"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(make: type[object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
