"""Golden files of networks of others: independent packages run with seeded weights (`tests.helpers.parity`).

python -m tests.golden.parity.make [NAME ...]

Needs the packages of the extra `parity`, and these without what they ask for, of which their networks use nothing:

pip install --no-deps timm==1.0.31 depth-anything-3==0.1.1 uniception==0.1.7 dlr-moge==2.0.0 ffgs==0.1.0.dev1
pip install --no-deps torchvision

Every function here gives the shapes of the tensors under their official
names, and outputs; `NETWORKS` has them by name. `tests/nn/test_parity.py` compares ours.
"""

from __future__ import annotations

import sys
import types
from pathlib import Path

import numpy as np
import torch

from tests.helpers.parity import images, sampled, save, seeded, tokens


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


def declare_operators() -> None:
    """What torchvision must find when it is imported beside a torch that it was not built with."""
    if _KEPT:
        return
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


def _depth_anything() -> None:
    """Lets parts of depth_anything_3 be imported without what the package imports at its top."""
    import depth_anything_3

    for name in ("model", "model.dinov2"):
        package = types.ModuleType(f"depth_anything_3.{name}")
        package.__path__ = [str(Path(depth_anything_3.__path__[0], *name.split(".")))]
        sys.modules.setdefault(package.__name__, package)


def vggt_block():
    """A block of VGGT: norms of queries and keys, positions on a grid of 3 x 4 patches after one token without."""
    _depth_anything()
    from depth_anything_3.model.dinov2.layers.block import Block
    from depth_anything_3.model.dinov2.layers.rope import RotaryPositionEmbedding2D

    rope = RotaryPositionEmbedding2D(frequency=100.0)
    options = {"qkv_bias": True, "init_values": 0.01, "qk_norm": True, "ln_eps": 1e-5}
    block = Block(64, 2, rope=rope, **options)
    shapes = _seed(block)
    places = torch.cartesian_prod(torch.arange(1, 4), torch.arange(1, 5))
    places = torch.cat([torch.zeros(1, 2, dtype=places.dtype), places])[None].expand(2, -1, -1)
    with torch.no_grad():
        out = block(torch.from_numpy(tokens(0, 2, 13, 64)), pos=places.contiguous())
    return shapes, {"tokens": sampled(out.numpy())}


def _depth_head(in_place: bool):
    _depth_anything()
    from depth_anything_3.model.dpt import DPT

    sizes = {"features": 32, "out_channels": (16, 32, 64, 64)}
    options = {"pos_embed": True, "norm_type": "layer", "use_sky_head": False, "output_dim": 2, "activation": "exp"}
    head = DPT(48, **sizes, **options, fusion_block_inplace=in_place)
    shapes = _seed(head)
    taps = [[torch.from_numpy(tokens(i, 2, 20, 48))[None]] for i in range(4)]
    with torch.no_grad():
        out = head(taps, 56, 70, patch_start_idx=0)
    return shapes, {"depth": sampled(out["depth"].numpy()), "confidence": sampled(out["depth_conf"].numpy())}


def dpt():
    """The depth head of VGGT, whose activations work in place."""
    return _depth_head(True)


def dpt_raw():
    """The same with units that add to what they were given."""
    return _depth_head(False)


class _Layers:
    """Layers by official name, their weights seeded when they are called; collects their shapes."""

    def __init__(self):
        self.shapes: dict[str, tuple[int, ...]] = {}

    def tensor(self, name: str, *shape: int) -> torch.Tensor:
        self.shapes[name] = shape
        return torch.from_numpy(seeded(name, shape))

    def linear(self, name: str, x: torch.Tensor, outputs: int) -> torch.Tensor:
        weight = self.tensor(f"{name}.weight", outputs, x.shape[-1])
        return torch.nn.functional.linear(x, weight, self.tensor(f"{name}.bias", outputs))

    def norm(self, name: str, x: torch.Tensor, epsilon: float = 1e-6) -> torch.Tensor:
        width = x.shape[-1]
        weight, bias = self.tensor(f"{name}.weight", width), self.tensor(f"{name}.bias", width)
        return torch.nn.functional.layer_norm(x, (width,), weight, bias, epsilon)

    def module(self, name: str, module: torch.nn.Module) -> torch.nn.Module:
        self.shapes |= _seed(module, lambda own: f"{name}.{own}")
        return module


def pi3():
    """A small Pi3X, three views, from blocks of depth-anything-3, heads of uniception and roma's rotations."""
    _depth_anything()
    import roma
    from depth_anything_3.model.dinov2.layers.block import Block
    from depth_anything_3.model.dinov2.layers.rope import RotaryPositionEmbedding2D
    from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel
    from uniception.models.prediction_heads.moge_conv import MoGeConvFeature, PredictionHeadLayeredInput

    views, size, grid, width, heads, special = 3, (42, 56), (3, 4), 64, 2, 5
    layers, rope, relu = _Layers(), RotaryPositionEmbedding2D(100.0), torch.relu
    sizes = {"hidden_size": width, "num_hidden_layers": 2, "num_attention_heads": heads}
    config = Dinov2WithRegistersConfig(**sizes, image_size=518, patch_size=14, num_register_tokens=4)
    encoder = Dinov2WithRegistersModel(config)
    layers.shapes |= _fill(encoder, "register_tokens", "encoder.")
    del layers.shapes["encoder.mask_token"]

    rows, columns = (torch.arange(side) + 1 for side in grid)
    places = torch.nn.functional.pad(torch.cartesian_prod(rows, columns), (0, 0, special, 0))
    own, joint = places[None].expand(views, -1, -1), places.repeat(views, 1)[None]

    def decoded(name, tokens, outputs):
        x = layers.linear(f"{name}.projects", tokens, width)
        for i in range(2):
            part = Block(width, heads, qkv_bias=True, rope=rope, ln_eps=1e-6)
            x = layers.module(f"{name}.blocks.{i}", part)(x, pos=own)
        return layers.linear(f"{name}.linear_out", x, outputs)[:, special:]

    def maps(name, x, outputs):
        head = MoGeConvFeature(14, 1, width, outputs, dim_proj=width, dim_upsample=[32, 32, 16])
        head.projects[0] = torch.nn.Identity()
        x = x.reshape(views, *grid, width).permute(0, 3, 1, 2)
        found = layers.module(name, head)(PredictionHeadLayeredInput(list_features=[x], target_output_shape=size))
        return found.decoded_channels.permute(0, 2, 3, 1)

    def unit(tokens):
        """The metric decoder."""
        name, hidden, many = "metric_decoder", 32, tokens.reshape(1, -1, tokens.shape[-1])
        x = layers.linear(f"{name}.projects_x", layers.tensor("metric_token", 1, 1, 2 * width), hidden)
        y = layers.linear(f"{name}.projects_y", many, hidden)
        for i in range(2):
            at = f"{name}.blocks.{i}"
            query, keys = layers.norm(f"{at}.norm2", x), layers.norm(f"{at}.norm_y", y)
            parts = (("q_proj", query), ("k_proj", keys), ("v_proj", keys))
            q, k, v = (layers.linear(f"{at}.cross_attn.{part}", z, hidden) for part, z in parts)
            q, k, v = (z.reshape(1, -1, 2, hidden // 2).transpose(1, 2) for z in (q, k, v))
            q, k = rope(q, torch.zeros(1, 1, 2, dtype=torch.long)), rope(k, joint)
            mixed = torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(1, 1, hidden)
            x = x + layers.linear(f"{at}.cross_attn.proj", mixed, hidden)
            z = layers.linear(f"{at}.mlp.fc1", layers.norm(f"{at}.norm3", x), 4 * hidden)
            x = x + layers.linear(f"{at}.mlp.fc2", torch.nn.functional.gelu(z), hidden)
        return torch.exp(layers.linear("metric_head", layers.linear(f"{name}.linear_out", x, hidden), 1))[0, 0, 0]

    with torch.no_grad():
        x = encoder(_channels_first(images(views, *size), MEAN, STD)).last_hidden_state[:, special:]
        registers = layers.tensor("register_token", 1, 1, special, width)[0].expand(views, -1, -1)
        x, taps = torch.cat([registers, x], dim=1), []
        for i in range(4):
            part = Block(width, heads, qkv_bias=True, init_values=0.01, qk_norm=True, rope=rope, ln_eps=1e-6)
            layers.module(f"decoder.{i}", part)
            x = part(x, pos=own) if i % 2 == 0 else part(x.reshape(1, -1, width), pos=joint).reshape(x.shape)
            taps.append(x)
        tokens = torch.cat(taps[2:], dim=-1)
        metric = unit(tokens)
        raw = maps("point_head", decoded("point_decoder", tokens, width), [2, 1])
        z = torch.exp(raw[..., 2:].clamp(max=15))
        points = metric * torch.cat([raw[..., :2] * z, z], dim=-1)
        confidence = maps("conf_head", decoded("conf_decoder", tokens, width), [1])
        y = decoded("camera_decoder", tokens, 32)
        for i in range(2):
            hidden = y
            for j in range(1, 4):
                hidden = relu(layers.linear(f"camera_head.res_conv.{i}.res_conv{j}", hidden, 32))
            y = y + hidden
        y = y.mean(dim=1)
        for i in (0, 2):
            y = relu(layers.linear(f"camera_head.more_mlps.{i}", y, 32))
        translations = metric * layers.linear("camera_head.fc_t", y, 3)
        matrices = layers.linear("camera_head.fc_rot", y, 9).reshape(views, 3, 3)
        many = torch.cat([matrices, torch.from_numpy(seeded("matrices", (20, 3, 3)))])
        rotations = roma.special_procrustes(torch.nn.functional.normalize(many, dim=-1))
    outputs = {
        "tap": torch.cat(taps[:2], dim=-1)[:, special:],
        "tokens": tokens[:, special:],
        "points": points,
        "confidence": confidence,
        "rotations": rotations,
        "translations": translations,
        "metric": metric,
    }
    return layers.shapes, {name: sampled(output.numpy()) for name, output in outputs.items()}


def _anysplat():
    """A small AnySplat, its aggregator in float32; its encoder is smaller than any that has a name."""
    from ffgs.models.anysplat.modeling import AnySplat
    from ffgs.models.anysplat.vggt.layers.vision_transformer import DinoVisionTransformer

    maps = {"out_channels": [16, 32, 64, 64], "intermediate_layer_idx": [0, 1, 2, 3]}
    model = AnySplat(
        voxel_size=0.05,
        intermediate_layer_idx=[0, 1, 2, 3],
        embed_dim=64,
        aggregator={"depth": 4, "num_heads": 2, "patch_embed": "conv"},
        camera_head={"trunk_depth": 2, "num_heads": 2},
        depth_head={**maps, "features": 32},
        gs_head=maps,
    )
    sizes = {"img_size": 518, "patch_size": 14, "embed_dim": 64, "depth": 2, "num_heads": 2, "num_register_tokens": 4}
    options = {"init_values": 1.0, "interpolate_antialias": True, "interpolate_offset": 0.0, "block_chunks": 0}
    model.encoder.aggregator.patch_embed = DinoVisionTransformer(**sizes, **options)
    model.encoder.aggregator.float()
    return model


def anysplat_whole() -> tuple[dict[str, tuple[int, ...]], dict[str, np.ndarray]]:
    """Shapes and everything that the small AnySplat says of three pictures; the Gaussians are fused of its points."""
    model = _anysplat()
    shapes, seen = _seed(model), {}
    fuse = model.encoder.voxelizaton_with_fusion

    def watched(features, points, voxel, conf):
        seen.update(points=points, numbers=torch.cat([features, conf[:, None]], dim=1))
        return fuse(features, points, voxel, conf=conf)

    model.encoder.voxelizaton_with_fusion = watched
    with torch.no_grad():
        out = model(torch.from_numpy(images(3, 42, 56)).permute(0, 3, 1, 2)[None])
    world = torch.linalg.inv(out.pred_context_pose["extrinsic"])[0]
    outputs = {
        "poses": out.pred_pose_enc_list[-1][0],
        "rotation": world[:, :3, :3],
        "translation": world[:, :3, 3],
        "intrinsics": out.pred_context_pose["intrinsic"][0] * torch.tensor([[[56.0], [42.0], [1.0]]]),
        "depths": out.depth_dict["depth"][0, ..., 0],
        "points": seen["points"].permute(0, 2, 3, 1),
        "numbers": seen["numbers"].permute(0, 2, 3, 1),
    }
    gaussians = {name: getattr(out.gaussians, name)[0] for name in ("means", "scales", "rotations", "opacities")}
    outputs |= gaussians | {"harmonics": out.gaussians.harmonics[0]}
    return shapes, {name: value.numpy() for name, value in outputs.items()}


def anysplat():
    """The maps of the small AnySplat, before fusion: a point that crosses a voxel's border changes a Gaussian."""
    shapes, outputs = anysplat_whole()
    names = ("poses", "rotation", "translation", "intrinsics", "depths", "points", "numbers")
    return shapes, {name: sampled(outputs[name]) for name in names}


def anysplat_fusion():
    """Gaussians of seeded points and numbers, many to a voxel."""
    encoder = _anysplat().encoder
    points, numbers = (torch.from_numpy(tokens(i, 1, 20, 15, k)).permute(0, 3, 1, 2) for i, k in enumerate((3, 84)))
    with torch.no_grad():
        means, features = encoder.voxelizaton_with_fusion(numbers[:, :83], points, 0.5, conf=numbers[:, 83])
        out = encoder.gaussian_adapter.forward(means, means[:, 2:], features[:, 0].sigmoid(), features[:, 1:])
    outputs = {name: getattr(out, name).numpy() for name in ("means", "scales", "rotations", "opacities", "harmonics")}
    return {}, {"count": np.array(len(means)), **{name: sampled(value) for name, value in outputs.items()}}


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


_ALL = dino_v2, dino_v3, vggt_block, dpt, dpt_raw, pi3, anysplat, anysplat_fusion, air_head
NETWORKS = {function.__name__: function for function in _ALL}


def run(name: str) -> tuple[dict[str, tuple[int, ...]], dict[str, np.ndarray]]:
    """(shapes, outputs) of one of `NETWORKS`."""
    declare_operators()
    return NETWORKS[name]()


def main(names: list[str]) -> None:
    """Write the golden files of these networks, or of all."""
    declare_operators()
    for name in names or NETWORKS:
        shapes, outputs = run(name)
        save(name, shapes, outputs)
        print(name, len(shapes), "tensors", {key: value.shape for key, value in outputs.items()})


if __name__ == "__main__":
    main(sys.argv[1:])
