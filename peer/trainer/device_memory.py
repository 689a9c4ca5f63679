"""How much of a GPU's memory the trainer's allocator may have. Pure."""

CONTEXT_BYTES = 512 << 20
"""What a process takes of a GPU beside its allocator: the driver's context and the kernels of libraries."""

LEAST_BYTES = 64 << 20
"""So much in any case: what does not fit says so itself."""


def allowed_bytes(*, total: int, free: int, reserved: int, limit: int, headroom: int) -> int:
    """Bytes for the allocator that has `reserved` of them now, on a device with `free` of `total` bytes.

    `limit` is for the whole process, 0: none; `headroom` stays free.
    """
    allowed = reserved + free - headroom
    if limit:
        allowed = min(allowed, limit - CONTEXT_BYTES)
    return max(LEAST_BYTES, min(total, allowed))
