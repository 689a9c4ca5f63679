"""The outer optimiser: SGD with Nesterov momentum on the aggregated pseudo-gradient.

    b <- mu * b + delta
    theta <- theta - eta * (delta + mu * b)

as torch.optim.SGD(nesterov=True) does without dampening (DiLoCo, Douillard et al. 2023), written out as
single float32 operations in a fixed order, so that every machine gets the same bits.
"""

import torch

from talkoot.averaging.rules import CHUNK_NUMEL


def outer_step(
    theta_P: torch.Tensor,
    momentum_P: torch.Tensor,
    delta_P: torch.Tensor,
    *,
    learning_rate: float,
    momentum: float,
    theta_out_P: torch.Tensor,
    momentum_out_P: torch.Tensor,
) -> None:
    """One outer step into `theta_out_P` and `momentum_out_P`; all flat fp32 of the same size.

    Outputs may be the inputs. Negative zeros come out as zeros.
    """
    scratch = torch.empty(min(CHUNK_NUMEL, theta_P.numel()))
    for start in range(0, theta_P.numel(), CHUNK_NUMEL):
        piece = slice(start, min(start + CHUNK_NUMEL, theta_P.numel()))
        delta, b, theta = delta_P[piece], momentum_out_P[piece], theta_out_P[piece]
        step = scratch[: delta.numel()]
        torch.mul(momentum_P[piece], momentum, out=b)
        torch.add(b, delta, out=b)
        torch.add(b, 0.0, out=b)
        torch.mul(b, momentum, out=step)
        torch.add(step, delta, out=step)
        torch.mul(step, learning_rate, out=step)
        torch.sub(theta_P[piece], step, out=theta)
        torch.add(theta, 0.0, out=theta)
