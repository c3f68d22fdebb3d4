"""Folders of the same three posed photographs in every format that airjax reads, for the tests."""

from __future__ import annotations

import json
import struct

import numpy as np
from PIL import Image

SIZE = (24, 32)
K = np.array([[30.0, 0, 15], [0, 31, 13], [0, 0, 1]])


def rotation(seed):
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.linalg.det(q)


POSES = [(rotation(i), np.array([0.1 * i, -0.2, 1.5 + i])) for i in range(3)]
NAMES = [f"{i:03d}.png" for i in range(3)]


def write_images(folder, names=NAMES, size=SIZE):
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for name in names:
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / name)


def write_transforms(folder, **changes):
    frames = []
    for name, (r, t) in zip(NAMES, POSES, strict=True):
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = r.T @ np.diag([1, -1, -1]), -r.T @ t
        frames.append({"file_path": f"images/{name}", "transform_matrix": pose.tolist()})
    content = {"fl_x": 30.0, "fl_y": 31.0, "cx": 15.0, "cy": 13.0, "w": 32, "h": 24, "frames": frames} | changes
    (folder / "transforms.json").write_text(json.dumps(content))


def rewrite(file, change):
    """Changes the content of a file in JSON in place."""
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def write_plain(folder, **changes):
    frames = [
        {"file_path": f"images/{name}", "K": K.tolist(), "R": r.tolist(), "t": t.tolist()}
        for name, (r, t) in zip(NAMES, POSES, strict=True)
    ]
    (folder / "cameras.json").write_text(json.dumps({"frames": frames} | changes))


def quat(r):
    """w x y z of a rotation by less than 180 degrees."""
    w = 0.5 * np.sqrt(1 + np.trace(r))
    return w, *(np.array([r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1]]) / (4 * w))


def write_colmap(folder, *, binary, names=NAMES, poses=POSES, intrinsics=K, size=SIZE, points=((1.0, 2.0, 3.0),)):
    folder = folder / "sparse" / "0"
    folder.mkdir(parents=True, exist_ok=True)
    quats = [quat(r) for r, _ in poses]
    lens = [float(intrinsics[i]) for i in ((0, 0), (1, 1), (0, 2), (1, 2))]
    if binary:
        (folder / "cameras.bin").write_bytes(struct.pack("<QiiQQ4d", 1, 7, 1, size[1], size[0], *lens))
        images = struct.pack("<Q", len(names))
        for i, (name, q, (_, t)) in enumerate(zip(names, quats, poses, strict=True)):
            images += struct.pack("<i7di", i, *q, *t, 7) + name.encode() + b"\0" + struct.pack("<Qddq", 1, 1, 2, -1)
        (folder / "images.bin").write_bytes(images)
        rows = [struct.pack("<Q3d3BdQii", i, *point, 1, 2, 3, 0.5, 1, 0, 0) for i, point in enumerate(points)]
        (folder / "points3D.bin").write_bytes(struct.pack("<Q", len(rows)) + b"".join(rows))
        return
    camera = " ".join(map(str, ("7 PINHOLE", size[1], size[0], *lens)))
    (folder / "cameras.txt").write_text(f"# a comment\n{camera}\n")
    lines = []
    for i, (name, q, (_, t)) in enumerate(zip(names, quats, poses, strict=True)):
        numbers = " ".join(map(repr, map(float, (*q, *t))))
        lines += [f"{i} {numbers} 7 {name}", ""]
    (folder / "images.txt").write_text("\n".join(lines) + "\n")
    rows = [f"{i} {x} {y} {z} 1 2 3 0.5 0 0\n" for i, (x, y, z) in enumerate(points)]
    (folder / "points3D.txt").write_text("".join(rows))


def write_llff(folder):
    rows = []
    for r, t in POSES:
        c2w = r.T
        pose = np.stack([c2w[:, 1], c2w[:, 0], -c2w[:, 2], -r.T @ t, [24, 32, 30.0]], axis=1)
        rows.append([*pose.ravel(), 1.0, 9.0])
    np.save(folder / "poses_bounds.npy", np.array(rows))


def write_strecha(folder):
    (folder / "gt_dense_cameras").mkdir()
    for name, (r, t) in zip(NAMES, POSES, strict=True):
        rows = [*K, [0, 0, 0], *r.T, -r.T @ t, [32, 24]]
        text = "\n".join(" ".join(map(repr, map(float, row))) for row in rows)
        (folder / "gt_dense_cameras" / f"{name}.camera").write_text(text)


def write_frames(folder, intrinsics=K):
    (folder / "poses").mkdir()
    np.savetxt(folder / "camera-intrinsics.txt", intrinsics)
    for name, (r, t) in zip(NAMES, POSES, strict=True):
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = r.T, -r.T @ t
        np.savetxt(folder / "poses" / name.replace(".png", ".pose.txt"), pose)


def to_world(r, t, axes=(1, 1, 1)):
    """4 x 4, camera to world."""
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = r.T @ np.diag(axes), -r.T @ t
    return pose


def inria_cameras():
    """What 3D Gaussian Splatting writes as cameras.json."""
    size = {"width": SIZE[1], "height": SIZE[0], "fx": 30.0, "fy": 31.0}
    poses = [to_world(*pose) for pose in POSES]
    return [{"id": 0, "rotation": p[:3, :3].tolist(), "position": p[:3, 3].tolist(), **size} for p in poses]


def camera_path(**changes):
    """What nerfstudio's viewer writes as a camera path, with a field of view of 60 degrees."""
    poses = [to_world(*pose, (1, -1, -1)) for pose in POSES]
    frames = [{"camera_to_world": p.ravel().tolist(), "fov": 60.0, "aspect": SIZE[1] / SIZE[0]} for p in poses]
    size = {"render_height": SIZE[0], "render_width": SIZE[1]}
    return {**size, "camera_type": "perspective", "camera_path": frames} | changes


WRITERS = {
    "nerfstudio": write_transforms,
    "plain": write_plain,
    "colmap binary": lambda folder: write_colmap(folder, binary=True),
    "colmap text": lambda folder: write_colmap(folder, binary=False),
    "llff": write_llff,
    "strecha": write_strecha,
    "frames": write_frames,
}


def found_poses(names, root, work, *, camera, max_size, progress):
    """Stands for `airjax.scene.poses.find_poses`: the first three photographs have the poses above."""
    from airjax.scene.poses import FoundPoses

    progress("read", len(names), len(names))
    with Image.open(root / names[0]) as image:
        write_colmap(work, binary=True, names=names[:3], size=image.size[::-1])
    (work / "points.ply").write_bytes(b"ply")
    found, without = tuple(names[:3]), tuple(names[3:])
    return FoundPoses(work / "sparse" / "0", work / "points.ply", found, without, 1234, 0.567, ("a notice",))
