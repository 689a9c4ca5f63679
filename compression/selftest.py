"""Golden digests: whether this machine computes the bits that all others do.

The input is made with integer arithmetic only, so nothing that is tested makes it. The digests belong to
`arithmetic.ARITHMETIC_VERSION`.
"""

import hashlib
from collections.abc import Callable, Iterator

import numpy as np
import torch

from talkoot.compression import arithmetic, codec

GOLDEN = {
    "values": "52aa47488186f9fd",
    "add": "59194e3305f8ad7f",
    "sub": "3640863881484041",
    "mul": "8753784ee88c5eb9",
    "mul by a number": "3831f4898ed315b0",
    "div": "8eea21b0247163a1",
    "div by a number": "23084e41a4f21cb3",
    "sqrt": "d8b83c44a4aba5ba",
    "minimum": "7a4657de9685c49e",
    "maximum": "ee216e12e53f3975",
    "round": "fc9f7524cca157c9",
    "normalise_zeros": "0ad29784662deeb9",
    "sum_squares": "96e259815a234755",
    "sum of products": "df01781f0bd05e40",
    "fp32 encode": "124a8f44966c0940",
    "fp32 decode": "63bc64acb99a0a50",
    "fp32 squared_norm": "9c545d476987bb2c",
    "fp16 encode": "87361b15d5ca0dee",
    "fp16 decode": "82ac30252f09bc2b",
    "fp16 squared_norm": "292997ab85d18ef3",
    "bf16 encode": "9a3b69e7bd179abf",
    "bf16 decode": "432f5e08058b9805",
    "bf16 squared_norm": "9d5e690c9651810d",
    "int8 encode": "9e1fc4b994276efe",
    "int8 decode": "b552e37afe08f24a",
    "int8 squared_norm": "8289ba77858d3d32",
    "int8:32 encode": "80db2b335f918d27",
    "int8:32 decode": "037d739a5a551c8c",
    "int8:32 squared_norm": "1aa964b0f9d9eb86",
    "int8:4096 encode": "ac7bd07fcd4cd1a4",
    "int8:4096 decode": "bc6809403ae77db7",
    "int8:4096 squared_norm": "211478bfc666f392",
    "int4 encode": "61b542c2753c310d",
    "int4 decode": "a1de76b421c4f3e0",
    "int4 squared_norm": "be7e772c26780e47",
    "int4:32 encode": "54caf14223bbdc07",
    "int4:32 decode": "d0ff118ec13742f6",
    "int4:32 squared_norm": "2b14ef803fa244af",
    "sign encode": "bce3b4c1f4249ee0",
    "sign decode": "b78a483da7429d1a",
    "sign squared_norm": "24bb598646991bf5",
    "sign:32 encode": "c96cf5a171534834",
    "sign:32 decode": "3507e0ce5c4b5ef9",
    "sign:32 squared_norm": "48093779fe47b0c6",
    "sign:4096 encode": "24afad222c704f25",
    "sign:4096 decode": "f39a3d555f27ee77",
    "sign:4096 squared_norm": "c4bcb2bf2c476226",
    "topk encode": "9d4bfcd72dcc605e",
    "topk decode": "e21687e747020a25",
    "topk squared_norm": "94658a399d5f2483",
    "topk:8 encode": "8caa9e01ffd8183c",
    "topk:8 decode": "17b5b9e33323cebb",
    "topk:8 squared_norm": "b56a541b6e9823ad",
    "topk:1024 encode": "f311bd93b0c4296d",
    "topk:1024 decode": "87368d0949398f4a",
    "topk:1024 squared_norm": "ed0c1839fa9f26eb",
    "lloyd4 encode": "239958ba2b52c77c",
    "lloyd4 decode": "b445c7a19bb300d9",
    "lloyd4 squared_norm": "24b48865fdffc12b",
    "lloyd2 encode": "3c4629d4225c51cc",
    "lloyd2 decode": "06a2abe5d1446a39",
    "lloyd2 squared_norm": "68a4e9069059ee59",
}
"""First 16 hexadecimal digits of the SHA-256 of each result."""

CODECS = (
    *("fp32", "fp16", "bf16"),
    *("int8", "int8:32", "int8:4096", "int4", "int4:32"),
    *("sign", "sign:32", "sign:4096"),
    *("lloyd4", "lloyd2"),
    *("topk", "topk:8", "topk:1024"),
)

SEED = 0x9E3779B97F4A7C15
"""For codecs that take one."""

NUMEL = 2**18 + 2**12 + 77
"""More than a piece, more than a block, and a short block at the end."""


def run(device: str = "cpu") -> None:
    """Raise ArithmeticError naming the first result that is not the golden one."""
    for name, found in digests(device):
        if found != GOLDEN[name]:
            raise ArithmeticError(f"this machine computes {name} differently ({found}, not {GOLDEN[name]})")


def digests(device: str = "cpu") -> Iterator[tuple[str, str]]:
    """Yield each result's name and digest."""
    a = golden_values(NUMEL, seed=1).to(device)
    b = golden_values(NUMEL, seed=2).to(device)
    yield "values", _digest(a)
    for name, operation in OPERATIONS.items():
        yield name, _digest(operation(torch.empty_like(a), a, b))
    yield "sum_squares", _digest(arithmetic.sum_squares(a))
    yield "sum of products", _digest(_sum_of_products(a, b))
    for name in CODECS:
        subject = codec.get(name, SEED)
        data = subject.encode(torch.clamp(a, -60000.0, 60000.0))
        out = torch.empty_like(a)
        subject.decode_into(data, out)
        yield f"{name} encode", _digest(data)
        yield f"{name} decode", _digest(out)
        yield f"{name} squared_norm", _digest(subject.squared_norm(data, NUMEL))


def _sum_of_products(a: torch.Tensor, b: torch.Tensor) -> float:
    """Of the last block, the one with the largest values: in 4096 lanes, one row after the other, folded."""
    lanes = torch.zeros(4096, dtype=torch.float64, device=a.device)
    a_RL, b_RL = (values[-arithmetic.SUM_BLOCK :].double().view(-1, len(lanes)) for values in (a, b))
    for one, other in zip(a_RL, b_RL, strict=True):
        arithmetic.add_products_(lanes, one, other)
    (total,) = arithmetic.fold_(lanes)
    return total


def golden_values(numel: int, seed: int) -> torch.Tensor:
    """Values of all signs and magnitudes from denormals to 2**30, with zeros of both signs.

    Magnitudes drift slowly along the vector, as those of layers do, so that blocks differ in scale.
    """
    bits = _mix(np.arange(numel, dtype=np.uint64) + np.uint64(seed << 32))
    sign = (bits >> np.uint64(63)) << np.uint64(31)
    mantissa = bits & np.uint64(0x7F_FFFF)
    drift = np.arange(numel, dtype=np.uint64) * np.uint64(150) // np.uint64(numel)
    exponent = drift + ((bits >> np.uint64(40)) % np.uint64(8))
    exponent[bits % np.uint64(97) == 0] = 0  # denormals anywhere
    mantissa[bits % np.uint64(101) == 0] = 0
    pattern = (sign | (exponent << np.uint64(23)) | mantissa).astype(np.uint32)
    return torch.from_numpy(pattern.view(np.float32))


OPERATIONS: dict[str, Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "add": arithmetic.add_,
    "sub": arithmetic.sub_,
    "mul": arithmetic.mul_,
    "mul by a number": lambda out, a, b: arithmetic.mul_(out, a, 0.7),
    "div": lambda out, a, b: arithmetic.div_(out, a, arithmetic.maximum_(torch.empty_like(b), b, 1e-30)),
    "div by a number": lambda out, a, b: arithmetic.div_(out, a, 3.0),
    "sqrt": lambda out, a, b: arithmetic.sqrt_(out, torch.abs(a)),
    "minimum": arithmetic.minimum_,
    "maximum": arithmetic.maximum_,
    "round": lambda out, a, b: arithmetic.round_(out, a),
    "normalise_zeros": lambda out, a, b: arithmetic.normalise_zeros_(out.copy_(a)),
}


def _mix(state: np.typing.NDArray[np.uint64]) -> np.typing.NDArray[np.uint64]:
    """SplitMix64 of each element."""
    state = state * np.uint64(0x9E3779B97F4A7C15) + np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def _digest(result: torch.Tensor | bytes | float) -> str:
    if isinstance(result, torch.Tensor):
        result = result.cpu().numpy().tobytes()
    if isinstance(result, float):
        result = result.hex().encode()
    return hashlib.sha256(result).hexdigest()[:16]
