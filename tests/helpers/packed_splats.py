"""Gaussians in the small formats of other programs, written by their definitions, for the tests of their reader."""

from __future__ import annotations

import gzip
import struct

import numpy as np

SH0 = 0.28209479177387814
# Harmonics of degree 1 to 3 in x, y, z: how often y or z are factors of each, by the formulas of 3D Gaussian Splatting.
ODD = [1, 1, 0, 1, 2, 2, 1, 2, 3, 2, 3, 1, 2, 1, 2]


def fields(gaussians):
    names = ("means", "scales", "quats", "opacities", "harmonics")
    means, scales, quats, opacities, harmonics = (np.asarray(getattr(gaussians, n), np.float64) for n in names)
    return means, scales, quats / np.linalg.norm(quats, axis=1, keepdims=True), opacities, harmonics


def to_byte(x):
    return int(np.clip(round(float(x)), 0, 255))


def to_splat(gaussians) -> bytes:
    data = b""
    for mean, scale, quat, opacity, harmonics in zip(*fields(gaussians), strict=True):
        color = [to_byte(255 * (0.5 + SH0 * c)) for c in harmonics[0]]
        turn = [to_byte(128 + 128 * q) for q in quat]
        data += struct.pack("<6f8B", *mean, *scale, *color, to_byte(255 * opacity), *turn)
    return data


def smallest(quat, bits):
    """(number of the largest, the others in their order as fractions of the square root of a half)."""
    largest = max(range(4), key=lambda i: abs(quat[i]))
    quat = [-q if quat[largest] < 0 else q for q in quat]
    return largest, [q * np.sqrt(2) for i, q in enumerate(quat) if i != largest]


def to_spz(gaussians, *, version=3, fraction=12) -> bytes:
    means, scales, quats, opacities, harmonics = fields(gaussians)
    count, rest = len(means), harmonics.shape[1] - 1
    degree = {0: 0, 3: 1, 8: 2, 15: 3}[rest]
    flips = np.array([1, -1, -1])  # to y up and z backwards
    data = struct.pack("<IIIBBBB", 0x5053474E, version, count, degree, fraction, 0, 0)
    for mean in means * flips:
        if version == 1:
            data += struct.pack("<3e", *mean)
        else:
            data += b"".join(round(x * 2**fraction).to_bytes(3, "little", signed=True) for x in mean)
    data += bytes(to_byte(255 * a) for a in opacities)
    data += bytes(to_byte(255 * (0.5 + 0.15 * c)) for c in harmonics[:, 0].ravel())
    data += bytes(to_byte(16 * (np.log(s) + 10)) for s in scales.ravel())
    for w, x, y, z in quats:
        quat = [x, -y, -z, w]
        if version == 3:
            largest, others = smallest(quat, 9)
            packed = largest
            for q in others:
                packed = packed << 10 | (q < 0) << 9 | round(511 * abs(q))
            data += struct.pack("<I", packed)
        else:
            sign = -1 if w < 0 else 1
            data += bytes(to_byte(127.5 * (1 + sign * q)) for q in quat[:3])
    for row in harmonics[:, 1:]:
        for odd, color in zip(ODD, row, strict=False):
            data += bytes(to_byte(128 + 128 * (-1) ** odd * c) for c in color)
    return gzip.compress(data)


def unit(x, low, high, bits):
    return round(float((x - low) / (high - low)) * (2**bits - 1)) if high > low else 0


def to_compressed_ply(gaussians, *, with_colors=True) -> bytes:
    means, scales, quats, opacities, harmonics = fields(gaussians)
    scales, colors, rest = np.log(scales), 0.5 + SH0 * harmonics[:, 0], harmonics.shape[1] - 1
    groups = [("", "xyz", means), ("scale_", "xyz", scales), ("", "rgb", colors)][: 3 if with_colors else 2]
    lines = ["ply", "format binary_little_endian 1.0", "comment by hand", f"element chunk {-(-len(means) // 256)}"]
    lines += [f"property float {end}_{name}{a}" for name, axes, _ in groups for end in ("min", "max") for a in axes]
    lines += [f"element vertex {len(means)}"]
    lines += [f"property uint packed_{name}" for name in ("position", "rotation", "scale", "color")]
    if rest:
        lines += [f"element sh {len(means)}", *(f"property uchar f_rest_{i}" for i in range(3 * rest))]
    chunks, vertices, others = b"", b"", b""
    for start in range(0, len(means), 256):
        some = slice(start, start + 256)
        limits = [(part[some].min(axis=0), part[some].max(axis=0)) for _, _, part in groups]
        chunks += np.concatenate([end for pair in limits for end in pair]).astype("<f4").tobytes()
        limits += [(np.zeros(3), np.ones(3))]
        for i in range(start, min(start + 256, len(means))):
            words = []
            for part, (low, high) in zip((means, scales), limits, strict=False):
                x, y, z = (unit(part[i, k], low[k], high[k], (11, 10, 11)[k]) for k in range(3))
                words.append(x << 21 | y << 11 | z)
            largest, (a, b, c) = smallest(quats[i], 10)
            turn = largest << 30 | unit(a, -1, 1, 10) << 20 | unit(b, -1, 1, 10) << 10 | unit(c, -1, 1, 10)
            low, high = limits[2]
            r, g, b = (unit(colors[i, k], low[k], high[k], 8) for k in range(3))
            color = r << 24 | g << 16 | b << 8 | to_byte(255 * opacities[i])
            vertices += struct.pack("<4I", words[0], turn, words[1], color)
            others += bytes(to_byte(256 * (0.5 + x / 8) - 0.5) for x in harmonics[i, 1:].T.ravel())
    return "\n".join([*lines, "end_header", ""]).encode() + chunks + vertices + others
