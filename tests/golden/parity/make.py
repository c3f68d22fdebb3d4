"""Golden files of networks of others: independent packages run with seeded weights (`tests.helpers.parity`).

python -m tests.golden.parity.make [NAME ...]

Needs the packages of the extra `parity`. Every function here gives the shapes of the tensors under their official
names, and outputs; `NETWORKS` has them by name. `tests/nn/test_parity.py` compares ours.
"""

from __future__ import annotations

import sys
import types

import numpy as np
import torch

from tests.helpers.parity import images, sampled, save, seeded


def _seed(module: torch.nn.Module, official=lambda name: name) -> dict[str, tuple[int, ...]]:
    """Fill a module with seeded weights; the shapes by official name."""
    state = module.state_dict()
    shapes = {official(name): tuple(tensor.shape) for name, tensor in state.items()}
    module.load_state_dict({name: torch.from_numpy(seeded(official(name), t.shape)) for name, t in state.items()})
    module.eval()
    return shapes


def _channels_first(pictures: np.ndarray, mean, std) -> torch.Tensor:
    normal = (pictures - np.array(mean, np.float32)) / np.array(std, np.float32)
    return torch.from_numpy(normal.astype(np.float32)).permute(0, 3, 1, 2).contiguous()


def _declare_operators() -> None:
    """What torchvision must find when it is imported beside a torch that it was not built with."""
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _KEPT.append(library)


_KEPT: list = []
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


_EMBEDDINGS = {
    "embeddings.cls_token": "cls_token",
    "embeddings.mask_token": "mask_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings": "patch_embed.proj",
    "embeddings.patch_embeddings.projection": "patch_embed.proj",
    "layernorm": "norm",
}


def _official(name: str, registers: str) -> tuple[str, int | None]:
    """The official name of a tensor of transformers, and which of q, k, v it is, if one."""
    name = name.replace("embeddings.register_tokens", registers).replace("model.layer.", "blocks.")
    name = name.replace("encoder.layer.", "blocks.").replace("layer_scale", "ls").replace("lambda1", "gamma")
    name = name.replace("attention.o_proj", "attn.proj").replace("mlp.up_proj", "mlp.fc1")
    name = name.replace("mlp.down_proj", "mlp.fc2")
    module, _, last = name.rpartition(".")
    name = _EMBEDDINGS.get(name) or ".".join(filter(None, (_EMBEDDINGS.get(module, module), last)))
    for i, part in enumerate("qkv"):
        if f"attention.{part}_proj" in name:
            return name.replace(f"attention.{part}_proj", "attn.qkv"), i
    return name, None


def _fill(module: torch.nn.Module, registers: str, prefix: str = "") -> dict[str, tuple[int, ...]]:
    """Fill a model of transformers, which splits q, k and v; the shapes by official name."""
    state, shapes, filled = module.state_dict(), {}, {}
    for name, tensor in state.items():
        official, part = _official(name, registers)
        official = prefix + official
        shapes[official] = tuple(tensor.shape) if part is None else (3 * tensor.shape[0], *tensor.shape[1:])
        weights = seeded(official, shapes[official])
        weights = weights if part is None else np.split(weights, 3)[part]
        filled[name] = torch.from_numpy(weights.copy())
    module.load_state_dict(filled)
    module.eval()
    return shapes


def dino_v2():
    """DINOv2 with registers, small, of pictures whose grid is not square."""
    from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    sizes = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 2}
    config = Dinov2WithRegistersConfig(**sizes, image_size=518, patch_size=14, num_register_tokens=4)
    model = Dinov2WithRegistersModel(config)
    shapes = _fill(model, "register_tokens")
    with torch.no_grad():
        out = model(_channels_first(images(2, 56, 98), MEAN, STD)).last_hidden_state
    return shapes, {"tokens": sampled(out.numpy())}


def dino_v3():
    """DINOv3 with four registers, small, after blocks 2 and 4."""
    from transformers import DINOv3ViTConfig, DINOv3ViTModel

    sizes = {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 512}
    biases = dict.fromkeys(("query_bias", "key_bias", "value_bias", "proj_bias", "mlp_bias"), True)
    config = DINOv3ViTConfig(
        **sizes, **biases, patch_size=16, num_register_tokens=4, layer_norm_eps=1e-5, rope_theta=100.0
    )
    model = DINOv3ViTModel(config)
    shapes = _fill(model, "storage_tokens")
    with torch.no_grad():
        out = model(_channels_first(images(2, 48, 80), MEAN, STD), output_hidden_states=True)
        middle = model.norm(out.hidden_states[2])
    return shapes, {"middle": sampled(middle.numpy()), "tokens": sampled(out.last_hidden_state.numpy())}


def _moge():
    """Its convolutions and UV planes; what else it imports is not needed."""
    for name in ("cv2", "utils3d"):
        sys.modules.setdefault(name, types.ModuleType(name))
    from moge.model.modules import ConvStack
    from moge.utils.geometry_torch import normalized_view_plane_uv

    return ConvStack, normalized_view_plane_uv


def air_head():
    """A head of AIR, small: DINOv3 and the convolutions of MoGe, of a signed image with sides of no round number."""
    from transformers import DINOv3ViTConfig, DINOv3ViTModel

    stack, plane = _moge()
    prefix, (height, width), patch = "gaussian_heads.0.", (101, 139), 7
    dim, widths, features = 128, [48, 32, 24, 16, 8], 12
    sizes = {"hidden_size": dim, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 512}
    biases = dict.fromkeys(("query_bias", "value_bias", "proj_bias", "mlp_bias"), True)
    config = DINOv3ViTConfig(
        **sizes, **biases, key_bias=False, patch_size=16, num_register_tokens=4, layer_norm_eps=1e-5, rope_theta=100.0
    )
    backbone = DINOv3ViTModel(config)
    plain = {"res_block_in_norm": "none", "res_block_hidden_norm": "none", "dim_res_blocks": widths}
    plain["resamplers"] = ["conv_transpose", "conv_transpose", "conv_transpose", "bilinear"]
    parts = {
        "encoder.output_projections": torch.nn.ModuleList([torch.nn.Conv2d(dim, widths[0], 1) for _ in range(2)]),
        "neck": stack([widths[0] + 2, 2, 2, 2, 2], dim_out=None, num_res_blocks=[0, 2, 2, 2, 0], **plain),
        "gaussian_feat_decoder": stack(
            widths, dim_out=[None] * 4 + [widths[-1]], num_res_blocks=[0, 1, 1, 1, 0], **plain
        ),
        "patch_embedding.patchify.conv": torch.nn.Conv2d(widths[-1], features, patch, patch, bias=False),
        "feat_layer_norm": torch.nn.LayerNorm(features),
        "gaussian_linear": torch.nn.Linear(features, 8),
    }
    shapes = _fill(backbone, "storage_tokens", f"{prefix}encoder.backbone.")
    for name, module in parts.items():
        shapes |= _seed(module, lambda own, name=name: f"{prefix}{name}.{own}")
    project, neck, decoder, patchify, norm, head = parts.values()
    residual = images(1, height, width) - np.float32(0.375)
    resize = torch.nn.functional.interpolate
    rows, columns = height // 16, width // 16
    with torch.no_grad():
        x = torch.from_numpy(residual).permute(0, 3, 1, 2).contiguous()
        x = resize(x, (16 * rows, 16 * columns), mode="bilinear", antialias=True)
        out = backbone(_channels_first(x.permute(0, 2, 3, 1).numpy(), MEAN, STD), output_hidden_states=True)
        taps = backbone.norm(out.hidden_states[2]), out.last_hidden_state
        grids = [tap[:, 5:].permute(0, 2, 1).reshape(1, dim, rows, columns) for tap in taps]
        planes = [
            plane(columns * 2**i, rows * 2**i, columns / rows, torch.float32).permute(2, 0, 1)[None] for i in range(5)
        ]
        tokens = sum(layer(grid) for layer, grid in zip(project, grids, strict=True))
        x = decoder(neck([torch.cat([tokens, planes[0]], 1), *planes[1:]]))[-1]
        x = resize(x, (height, width), mode="bilinear", align_corners=False)
        x = torch.nn.functional.pad(x, (0, -width % patch, 0, -height % patch), mode="replicate")
        raw = head(norm(patchify(x).permute(0, 2, 3, 1)))[0]
    return shapes, {"raw": sampled(raw.numpy()), "token": taps[1][0, 0].numpy()}


NETWORKS = {"dino_v2": dino_v2, "dino_v3": dino_v3, "air_head": air_head}


def run(name: str) -> tuple[dict[str, tuple[int, ...]], dict[str, np.ndarray]]:
    """(shapes, outputs) of one of `NETWORKS`."""
    if not _KEPT:
        _declare_operators()
    return NETWORKS[name]()


def main(names: list[str]) -> None:
    """Write the golden files of these networks, or of all."""
    for name in names or NETWORKS:
        shapes, outputs = run(name)
        save(name, shapes, outputs)
        print(name, len(shapes), "tensors", {key: value.shape for key, value in outputs.items()})


if __name__ == "__main__":
    main(sys.argv[1:])
