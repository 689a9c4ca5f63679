"""Plain floating point codecs: float32, and float32 rounded once to half precision or to bfloat16.

Body: the values' bits, little-endian. Zero is always +0.0; infinities and NaN are refused.
"""

import math
from abc import abstractmethod
from collections.abc import Iterator

import numpy as np
import torch

from talkoot.compression.arithmetic import squares, sum_squares
from talkoot.compression.base import PIECE, Codec, CodecError, Octets, copy_octets, pieces, refuse_values


class FloatCodec(Codec):
    """Values as bits of a floating point format that float32 rounds to.

    A subclass says how values become bits (signed integers of `bits_dtype`) and back.
    """

    parameter = 0
    bits_dtype: torch.dtype
    exponent_mask: int
    """The bits of the exponent, all ones in an infinity or NaN."""
    limit: float
    """Smallest magnitude that no longer rounds to a finite value."""

    @abstractmethod
    def _to_bits(self, values: torch.Tensor) -> torch.Tensor:
        """Fresh tensor with the bits of finite `values` below `limit`, rounded to nearest even."""

    @abstractmethod
    def _from_bits(self, bits: torch.Tensor) -> torch.Tensor:
        """The float32 values of `bits`, exactly; may share memory."""

    def _body_size(self, numel: int) -> int:
        return numel * self.bits_dtype.itemsize

    def _encode_body(self, values_P: torch.Tensor, body: Octets) -> None:
        size = self.bits_dtype.itemsize
        negative_zero = torch.iinfo(self.bits_dtype).min
        for start, stop, _ in pieces(values_P.numel()):
            values = values_P[start:stop]
            low, high = (float(bound) for bound in torch.aminmax(values))
            if not (-self.limit < low and high < self.limit):
                raise refuse_values(values, start, self.limit)
            bits = self._to_bits(values)
            bits.masked_fill_(bits == negative_zero, 0)
            body[start * size : stop * size] = bits.cpu().numpy().view(np.uint8)

    def _decode_body(self, body: Octets, out_P: torch.Tensor) -> None:
        for start, values in self._checked(body, out_P.numel()):
            out_P[start : start + values.numel()].copy_(values)

    def _norm_of(self, body: Octets, out_P: torch.Tensor) -> float:
        return sum_squares(out_P)

    def _squared_norm(self, body: Octets, numel: int) -> float:
        terms: list[float] = []
        for _, values in self._checked(body, numel):
            terms += squares(values)
        return math.fsum(terms)

    def _checked(self, body: Octets, numel: int) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield (start, values) for each piece, valid until the next; raises CodecError."""
        size = self.bits_dtype.itemsize
        scratch_P = torch.empty(min(PIECE, numel), dtype=self.bits_dtype)
        negative_zero = torch.iinfo(self.bits_dtype).min
        for start, stop, _ in pieces(numel):
            bits = copy_octets(scratch_P[: stop - start], body[start * size : stop * size])
            array = bits.numpy()  # two checks of few elements are faster so
            if (array & self.exponent_mask).max() == self.exponent_mask:
                raise CodecError("not_finite", f"{self.name}: a value is not finite")
            if (array == negative_zero).any():
                raise CodecError("negative_zero", f"{self.name}: a zero has a sign")
            yield start, self._from_bits(bits)


class Fp32(FloatCodec):
    """The values themselves."""

    name = "fp32"
    wire_id = 1
    bits_dtype = torch.int32
    exponent_mask = 0x7F80_0000
    limit = math.inf

    def _to_bits(self, values: torch.Tensor) -> torch.Tensor:
        return values.view(torch.int32).clone()

    def _from_bits(self, bits: torch.Tensor) -> torch.Tensor:
        return bits.view(torch.float32)


class Fp16(FloatCodec):
    """IEEE half precision: 11 significant bits, magnitudes below 65520."""

    name = "fp16"
    wire_id = 2
    bits_dtype = torch.int16
    exponent_mask = 0x7C00
    limit = 65520.0

    def _to_bits(self, values: torch.Tensor) -> torch.Tensor:
        return values.to(torch.float16).view(torch.int16)

    def _from_bits(self, bits: torch.Tensor) -> torch.Tensor:
        return bits.view(torch.float16).to(torch.float32)


class Bf16(FloatCodec):
    """bfloat16: 8 significant bits, the range of float32."""

    name = "bf16"
    wire_id = 3
    bits_dtype = torch.int16
    exponent_mask = 0x7F80
    limit = 511 * 2.0**119  # half a step above the largest finite one, (2 - 2**-7) * 2**127

    def _to_bits(self, values: torch.Tensor) -> torch.Tensor:
        # By integers: hardware conversions flush denormals on some machines and not on others.
        bits = values.view(torch.int32)
        rounded = (bits >> 16).bitwise_and_(1).add_(bits).add_(0x7FFF)
        return rounded.bitwise_right_shift_(16).to(torch.int16)

    def _from_bits(self, bits: torch.Tensor) -> torch.Tensor:
        return bits.to(torch.int32).bitwise_left_shift_(16).view(torch.float32)
