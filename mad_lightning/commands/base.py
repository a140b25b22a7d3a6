r"""mad base: a U-Net that diffusers has saved, as the base that every generation starts from.

usage: mad base FOLDER [--out NAME] [--sampler NAME] [--steps N] [--last_class_is_none]

Examples:
  mad base ddpm-cifar10-32 --out cifar
  mad train --config cifar10_diffusion_full_synth.yaml --config cifar.yaml \
      --data.source.labels false

FOLDER holds a pipeline, or a UNet2DModel with its scheduler_config.json in it or beside it, as
save_pretrained or mad export writes them, weights as safetensors; nothing is fetched. NAME.ckpt
becomes its weights, and NAME.yaml the rest: network, noise schedule, prediction, sampler,
lineage.start: base. In a lineage of that configuration each generation starts from these weights,
and FOLDER is not needed any more. What cannot be said so is refused, with the field of FOLDER's
own files.

Where the network knows classes, it gets one more, for "no class", which training learns; one that
mad export wrote has it, and draws on as it did.

Options:
  --out NAME             without an ending (default: the folder's name, here)
  --sampler NAME         instead of the folder's scheduler, if that is not DDPM or DDIM
  --steps N              of the sampler (default: all for DDPM, else 50)
  --last_class_is_none   the last class means "no class" already
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from mad_lightning.callbacks.console import say
from mad_lightning.commands.explain import PlainParser
from mad_lightning.files import Damaged, read_json, write
from mad_lightning.generators.diffusion import Diffusion
from mad_lightning.generators.solvers import BETAS, SOLVERS
from mad_lightning.loop.checkpoints import SealedCheckpoints
from mad_lightning.nets.unet import UNet2D
from mad_lightning.refusal import Refused, at
from mad_lightning.samples import SampleSpec

__all__ = ["build_parser", "run"]

_PREDICTIONS = {"epsilon": "epsilon", "v_prediction": "velocity", "sample": "sample"}
_SAMPLERS = {
    ("DDPMScheduler", "fixed_small"): "ddpm",
    ("DDPMScheduler", "fixed_small_log"): "ddpm",
    ("DDPMScheduler", "fixed_large"): "ddpm_large",
    ("DDIMScheduler", None): "ddim",
}
"""Schedulers of diffusers, with their variance, that a sampler here draws like."""
_MEANS_NOTHING: dict[str, Any] = {
    "rescale_betas_zero_snr": False,
    "thresholding": False,
    "clip_sample_range": 1.0,
    "use_flow_sigmas": False,
}
"""Fields of a scheduler that must be absent, or say this."""
_AND_OF_DDIM: dict[str, Any] = {
    "set_alpha_to_one": True,
    "steps_offset": 0,
    "timestep_spacing": "leading",
}
_RETELL = "take another network; what this field does, no field here can say"


def build_parser() -> PlainParser:
    """All that may be said to it."""
    parser = PlainParser("base")
    add = parser.add_argument
    add("folder", metavar="FOLDER", type=Path)
    add("--out", metavar="NAME")
    add("--sampler", choices=tuple(SOLVERS))
    add("--steps", type=int, metavar="N")
    add("--last_class_is_none", action="store_true")
    return parser


def run(args: Sequence[str]) -> None:
    """Writes weights and configuration, or neither."""
    given = build_parser().parse_args(args)
    name = given.out or given.folder.resolve().name
    weights, config = Path(f"{name}.ckpt"), Path(f"{name}.yaml")
    for path in (weights, config):
        if path.exists():
            raise Refused("--out", f"{path} exists already", "name another, or take it away")
    network, scheduler, ours = _found(given.folder)
    arguments = _arguments(scheduler, ours, given.sampler, given.steps)
    options = _options(network)
    is_whole = bool(ours) or given.last_class_is_none
    adds_class = "num_class_embeds" in options and not is_whole
    if adds_class:
        options["num_class_embeds"] += 1
    generator = _generator(network, options, arguments, adds_class)
    weights.parent.mkdir(parents=True, exist_ok=True)
    SealedCheckpoints().save_checkpoint({"state_dict": generator.state_dict()}, weights)
    write(config, _text(given.folder, weights, options, arguments))
    say(f"{weights} and {config}: mad train --config OTHERS.yaml --config {config}")


def _found(folder: Path) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """Where the network lies, how it is scheduled, and what mad export says of it, if it did."""
    if not folder.is_dir():
        raise Refused("FOLDER", f"there is no folder {folder}", "name one that is on this machine")
    network = next((at for at in (folder / "unet", folder) if (at / "config.json").is_file()), None)
    if network is None:
        remedy = "name a folder that save_pretrained wrote, of a pipeline or a UNet2DModel"
        raise Refused("FOLDER", f"{folder} holds no config.json of a network", remedy)
    places = (folder / "scheduler", folder, folder.parent / "scheduler")
    files = (place / "scheduler_config.json" for place in places)
    file = next(filter(Path.is_file, files), None)
    if file is None:
        problem = f"{folder} has no scheduler_config.json, which tells the noise schedule"
        raise Refused("FOLDER", problem, "save its scheduler there, by save_pretrained, too")
    index = _read(folder / "model_index.json")
    is_ours = "ClassPipeline" in json.dumps(index.get("_class_name"))
    return network, _read(file), index.get("arguments") or {} if is_ours else {}


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except Damaged as damaged:
        raise Refused("FOLDER", str(damaged), "fetch it again") from None


def _options(network: Path) -> dict[str, Any]:
    """What of a network's configuration is not as diffusers has it by default.

    Raises:
        Refused: If it is another kind of network, or predicts something else.
    """
    from diffusers import UNet2DModel

    config = _read(network / "config.json")
    if (kind := config.get("_class_name")) != "UNet2DModel":
        raise Refused("_class_name", f"{kind} in {network}", "take a folder with a UNet2DModel")
    parameters = inspect.signature(UNet2DModel.__init__).parameters
    told = {name: config[name] for name in parameters if name in config}
    if told.get("class_embed_type") is not None:
        embeds = f"classes are embedded by {told['class_embed_type']}"
        raise Refused("class_embed_type", embeds, "take one with a learned embedding, or none")
    if told.get("time_embedding_type") == "fourier":
        problem = "its times are noise levels, its schedule is not that of DDPM"
        raise Refused("time_embedding_type", f"fourier: {problem}", _RETELL)
    channels = told.get("in_channels", 3), told.get("out_channels", 3)
    if channels[0] != channels[1]:
        problem = f"{channels[1]} channels come out of {channels[0]}: it predicts a variance, too"
        raise Refused("out_channels", problem, _RETELL)
    if told.get("sample_size") is None:
        problem = f"{network}/config.json does not tell the size of its images"
        raise Refused("sample_size", problem, "write it there")
    return {
        name: value for name, value in told.items() if not _same(value, parameters[name].default)
    }


def _same(value: Any, default: Any) -> bool:
    return value == (list(default) if isinstance(default, tuple) else default)


def _arguments(
    scheduler: Mapping[str, Any], ours: Mapping[str, Any], sampler: str | None, steps: int | None
) -> dict[str, Any]:
    """Arguments of :class:`Diffusion`: those of an export of ours, or what a scheduler tells.

    Raises:
        Refused: If there are none that draw so.
    """
    told = dict(ours) or _schedule(scheduler, sampler)
    told["sampler"] = sampler or told["sampler"]
    if steps is not None:
        told["sampling_steps"] = steps
    elif sampler or not ours:
        is_ancestral = told["sampler"].startswith("ddpm")
        told["sampling_steps"] = None if is_ancestral else min(50, told["timesteps"])
    Diffusion(**told)  # refuses what it does not take
    return told


def _schedule(config: Mapping[str, Any], sampler: str | None) -> dict[str, Any]:
    """What a scheduler's configuration tells, but for the number of steps.

    Raises:
        Refused: If it says what no argument of :class:`Diffusion` can say.
    """
    kind, variance = str(config.get("_class_name")), config.get("variance_type")
    own = _SAMPLERS.get((kind, variance or ("fixed_small" if kind == "DDPMScheduler" else None)))
    if own is None and sampler is None:
        words = kind + (f" with variance_type {variance}" if variance else "")
        remedy = "say how to draw: --sampler ddpm, unipc, ..."
        raise Refused("_class_name", f"no sampler here draws as {words} does", remedy)
    wanted = _MEANS_NOTHING | (_AND_OF_DDIM if own == "ddim" == (sampler or own) else {})
    for name, plain in wanted.items():
        if name in config and config[name] != plain:
            raise Refused(name, f"{config[name]}, where {plain} can be taken", _RETELL)
    prediction = config.get("prediction_type", "epsilon")
    if prediction not in _PREDICTIONS:
        choose = f"take one that predicts {', '.join(_PREDICTIONS)}"
        raise Refused("prediction_type", f"{prediction}", choose)
    if config.get("trained_betas") is not None:
        problem = f"{len(config['trained_betas'])} numbers of its own"
        raise Refused("trained_betas", problem, _RETELL)
    return {
        "timesteps": config.get("num_train_timesteps", 1000),
        "beta_schedule": config.get("beta_schedule", "linear"),
        "beta_start": config.get("beta_start", BETAS[0]),
        "beta_end": config.get("beta_end", BETAS[1]),
        "prediction": _PREDICTIONS[prediction],
        "sampler": own,
        "clip": bool(config.get("clip_sample", False)),
    }


def _generator(
    network: Path, options: dict[str, Any], arguments: dict[str, Any], adds_class: bool
) -> Diffusion:
    """The generator with the weights of a folder, averaged ones as well."""
    from diffusers import UNet2DModel

    try:
        theirs = UNet2DModel.from_pretrained(
            network, local_files_only=True, use_safetensors=True, low_cpu_mem_usage=False
        ).float()
    except Exception as error:  # whatever diffusers makes of files that are not what it wrote
        remedy = "save it again by save_pretrained, with safe_serialization=True"
        words = str(error).strip().partition("\n")[0][:300]
        raise Refused("FOLDER", f"{network} cannot be loaded: {words}", remedy) from error
    weights = theirs.state_dict()
    if adds_class:
        rows = weights["class_embedding.weight"]
        weights["class_embedding.weight"] = torch.cat([rows, rows.mean(0, keepdim=True)])
    size = options["sample_size"]
    sides = (size, size) if isinstance(size, int) else tuple(size)
    known = options.get("num_class_embeds")
    spec = SampleSpec((options.get("in_channels", 3), *sides), None if known is None else known - 1)
    with at("generator"):
        generator = Diffusion(lambda spec: UNet2D(spec, options), **arguments).build(spec)
    for net in (generator.net, generator.ema.net):
        assert isinstance(net, UNet2D)
        net.unet.load_state_dict(weights)
    return generator


def _text(folder: Path, weights: Path, options: dict[str, Any], arguments: dict[str, Any]) -> str:
    """The configuration."""
    network = {"class_path": "mad_lightning.nets.unet.UNet2D", "init_args": {"options": options}}
    generator = {"class_path": "Diffusion", "init_args": {"network": network, **arguments}}
    lineage = {"start": "base", "base": str(weights)}
    head = (
        f"# {folder.resolve().name}, a network that diffusers has saved, as the base of every\n"
        "# generation; written by mad base, to be given after a configuration of data and loop.\n"
    )
    return head + yaml.safe_dump({"lineage": lineage, "generator": generator}, sort_keys=False)
