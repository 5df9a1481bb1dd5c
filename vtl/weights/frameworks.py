"""What trainings save beside a network, and the commands that take the network out.

Networks are found by the names of their first layers, whatever stands before them. `FRAMEWORKS` are
trainings known by their names: which of several networks their authors evaluate, and whether its
head is a projection.
"""

import bisect
import itertools
import re
import shlex
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from vtl.errors import UserError
from vtl.untrusted import printable
from vtl.weights import convert, extracts
from vtl.weights.extracts import Selection
from vtl.weights.formats import Contents
from vtl.weights.formats.contents import OUTERMOST
from vtl.weights.formats.untrusted import MAX_TENSORS, Tensors
from vtl.weights.layouts import akin
from vtl.weights.layouts.names import plain_name


class Framework(NamedTuple):
    """A training's checkpoints, or a wrapper around a network."""

    name: str
    signs: tuple[str, ...]
    """Each is found in one of the file's names, which begin with their keys: `teacher.head.mlp`."""
    evaluated: str = ""
    """Found in the place (key and prefix) of the network that the authors evaluate."""
    projects: bool = False
    """Whether the network's head is a projection and no classifier."""


FRAMEWORKS = (
    # facebookresearch/moco, main_lincls.py: encoder_q, without fc.
    Framework("MoCo v1 or v2", (r"(^|\.)encoder_q\.",), r"(^|\.)encoder_q\.", projects=True),
    # facebookresearch/moco-v3, main_lincls.py: base_encoder, without fc or, of a ViT, head.
    Framework("MoCo v3", (r"(^|\.)base_encoder\.",), r"(^|\.)base_encoder\.", projects=True),
    # facebookresearch/swav and deepcluster; VISSL's keeps them as heads.
    Framework("SwAV or DeepCluster v2", (r"(^|\.)prototypes\.",), projects=True),
    # lucidrains/byol-pytorch: online_encoder.net; OpenMMLab: online_net.0.
    Framework(
        "BYOL",
        (r"(^|\.)online_(encoder|network|net|backbone)\.",),
        r"(^|\.)online_(encoder|network|net|backbone)\.",
        projects=True,
    ),
    # facebookresearch/dino, eval_linear.py: --checkpoint_key teacher; so do iBOT and DINOv2.
    Framework(
        "DINO, iBOT or DINOv2",
        (r"(^|\.)(teacher|student)\.", r"(^|\.)(head\.(last_layer|mlp)|dino_head)\."),
        r"(^|\.)teacher\.",
        projects=True,
    ),
    # facebookresearch/barlowtwins: a BatchNorm without parameters follows the projector.
    Framework(
        "Barlow Twins",
        (r"^model\.(module\.)?projector\.", r"^model\.(module\.)?bn\.running_mean$"),
        projects=True,
    ),
    # vturrisi/solo-learn: the average is momentum_backbone.
    Framework(
        "solo-learn",
        (r"(^|\.)momentum_(backbone|encoder|projector)\.", r"(^|\.)(backbone|encoder)\."),
        r"(^|\.)(?<!momentum_)(backbone|encoder)\.$",
        projects=True,
    ),
    # facebookresearch/vicreg
    Framework("VICReg", (r"^model\.(module\.)?projector\.\d",), projects=True),
    # facebookresearch/mae
    Framework("MAE", (r"(^|\.)decoder_embed\.", r"(^|\.)mask_token$"), projects=True),
    # facebookresearch/simsiam
    Framework("SimSiam", (r"(^|\.)encoder\.fc\.\d", r"(^|\.)predictor\."), projects=True),
    # sthalles/SimCLR
    Framework("SimCLR", (r"(^|\.)backbone\.fc\.\d",), projects=True),
    # facebookresearch/vissl, extra_scripts/convert_vissl_to_torchvision.py
    Framework("VISSL", (r"^classy_state_dict\.", r"(^|\.)_feature_blocks\."), projects=True),
    Framework("CLIP", (r"(^|\.)visual\.", r"(^|\.)(token_embedding|transformer\.resblocks)\.")),
    Framework("OpenMMLab", (r"^meta$", r"^state_dict\.")),
    # timm's train.py writes it, and its validate.py --use-ema reads it; its loaders prefer it.
    Framework("timm", (r"^state_dict_ema\.", r"^state_dict\."), r"^state_dict_ema\."),
    # torchvision's references, facebookresearch/ConvNeXt, lucidrains/ema-pytorch and others.
    Framework(
        "an average of the weights (EMA)",
        (r"(^|[._])ema(_\w{1,30})?\.",),
        r"(^|[._])ema(_\w{1,30})?\.",
    ),
    Framework("PyTorch Lightning", (r"^pytorch-lightning_version$",)),
    Framework("DataParallel", (r"(^|\.)module\.",)),
    Framework("torch.compile", (r"(^|\.)_orig_mod\.",)),
    Framework("FSDP", (r"(^|\.)_fsdp_wrapped_module\.",)),
)
"""The first that is recognised and evaluates something decides which network that is."""


class Family(NamedTuple):
    """Networks of one naming: two layers that each has, and the first parts of all names."""

    stem: str
    block: str
    parts: re.Pattern[str]


_FAMILIES = (
    Family("conv1.weight", "layer1.0.conv1.", re.compile(r"conv1|bn1|layer[1-4]|fc")),
    Family(
        "embedder.embedder.convolution.weight",
        "encoder.stages.0.layers.0.",
        re.compile(r"embedder|encoder|classifier"),
    ),
    Family(
        "patch_embed.proj.weight",
        "blocks.0.",
        re.compile(
            r"cls_token|dist_token|reg_token|register_tokens|storage_tokens|pos_embed|rope_embed"
            r"|patch_embed|blocks|norm|norm_pre|fc_norm|local_cls_norm|pre_logits|head"
        ),
    ),
    Family(
        "conv_stem.weight",
        "blocks.0.0.",
        re.compile(r"conv_stem|bn1|blocks|conv_head|bn2|classifier"),
    ),
)
_HEADS = re.compile("fc|heads?|classifier")
_DROPS = (
    *(r"projector\w*", r"projection\w*", r"proj_head", r"predictor\w*", r"prototypes\w*"),
    *(r"decoder_\w+", r"mask_token", r"dino_head", r"ibot_head", r"neck", r"mlp_head"),
    *(r"queue\w*", r"criterion", r"loss", r"\w+_loss", r"n_averaged", r"momentum_\w+"),
)
"""First parts of names that are no part of any network here, as patterns for --drop."""

_MOST_NETWORKS = 16
_LONGEST_LINE = 200


class Found(NamedTuple):
    """A network in a file: how to take it out, and what is known of it."""

    selection: Selection
    num_tensors: int
    """Of tensors under the prefix."""
    is_evaluated: bool
    """Whether it is the one that the authors of the training evaluate."""
    complaint: str
    """Why it can't be read; "" if it can."""
    unknown: tuple[str, ...]
    """First parts of names that the selection leaves out though nobody knows what they are."""

    @property
    def place(self) -> str:
        """Its key and prefix, for people."""
        place = _joined(self.selection.key.rstrip(OUTERMOST), self.selection.prefix).rstrip(".")
        return printable(place, 60) or "the network"


class Seen(NamedTuple):
    """The trainings that a file's names speak of, and its networks, the evaluated one first."""

    frameworks: tuple[Framework, ...]
    networks: tuple[Found, ...]

    @property
    def names(self) -> str:
        """Of the trainings, for people."""
        return ", ".join(framework.name for framework in self.frameworks)


NOTHING = Seen((), ())


def look(contents: Contents) -> Seen:
    """What a file's names tell of it, each network tried."""
    frameworks = _frameworks(contents)
    projects = any(framework.projects for framework in frameworks)
    evaluated = next((f.evaluated for f in frameworks if f.evaluated), "")
    places = [
        (key, prefix, family)
        for key, entry in contents.networks().items()
        if len(entry.names) <= MAX_TENSORS
        for prefix, family in _prefixes(entry.names)
    ][:_MOST_NETWORKS]
    chosen = [evaluated and re.search(evaluated, _joined(key, prefix)) for key, prefix, _ in places]
    # Of a pattern that is found nowhere, or everywhere, nothing can be said.
    says = len(places) > 1 and 0 < sum(map(bool, chosen)) < len(places)
    found = []
    for (key, prefix, family), is_chosen in zip(places, chosen, strict=True):
        others = [p for k, p, _ in places if k == key and p != prefix]
        found.append(
            _tried(contents, key, prefix, family, others, projects, says and bool(is_chosen))
        )
    return Seen(frameworks, tuple(sorted(found, key=lambda network: not network.is_evaluated)))


def _frameworks(contents: Contents) -> tuple[Framework, ...]:
    """Those whose signs are all found, of methods of training only the first."""
    names = (
        _joined(key, name)
        for key, entry in contents.networks().items()
        for name in (*entry.names, *entry.others)
    )
    lines = {
        name[:_LONGEST_LINE].replace("\n", " ")
        for name in itertools.islice(itertools.chain(contents.keys, names), MAX_TENSORS)
    }
    text = "\n".join(sorted(lines))
    found = [
        framework
        for framework in FRAMEWORKS
        if all(re.search(sign, text, re.MULTILINE) for sign in framework.signs)
    ]
    method = next((framework for framework in found if framework.projects), None)
    return tuple(framework for framework in found if not framework.projects or framework is method)


def _joined(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


def _prefixes(keys: Iterable[str]) -> Iterator[tuple[str, Family]]:
    """What stands before the names of each network among those of tensors, and its family."""
    names = sorted(map(plain_name, keys))
    for family in _FAMILIES:
        for name in names:
            if name.endswith(family.stem):
                prefix = name.removesuffix(family.stem)
                block = f"{prefix}{family.block}"
                at = bisect.bisect_left(names, block)
                if prefix[-1:] in ("", ".") and at < len(names) and names[at].startswith(block):
                    yield prefix, family


def _tried(
    contents: Contents,
    key: str,
    prefix: str,
    family: Family,
    others: Iterable[str],
    projects: bool,
    is_evaluated: bool,
) -> Found:
    """A network, with what must be dropped for it to be read."""
    entry = contents.entries[key]
    plain = map(plain_name, entry.names)
    rests = [name.removeprefix(prefix) for name in plain if name.startswith(prefix)]
    inner = {p.removeprefix(prefix).partition(".")[0] for p in others if p.startswith(prefix)}
    drops: dict[str, None] = {}
    unknown: dict[str, None] = {}
    for rest in rests:
        part, _, leaf = rest[:_LONGEST_LINE].partition(".")
        if family.parts.fullmatch(part) and part not in inner:
            # A classifier is one layer, of which Hugging Face's is the second in its module.
            is_deep = leaf.count(".") > (part == "classifier")
            if _HEADS.fullmatch(part) and (projects or is_deep):
                drops[part] = None
        elif pattern := next((p for p in _DROPS if re.fullmatch(p, part)), ""):
            drops[pattern] = None
        elif part in inner or _HEADS.fullmatch(part):
            drops[re.escape(part)] = None
        else:
            unknown[part] = None
    values = map(plain_name, entry.others)
    drops |= {re.escape(v.removeprefix(prefix)): None for v in values if v.startswith(prefix)}
    drop = "|".join((*drops, *map(re.escape, unknown)))
    is_alone = len(contents.networks()) == 1
    selection = Selection(key or ("" if is_alone else OUTERMOST), prefix, drop)
    complaint = ""
    try:
        # A network of another family may become one of ours by what is dropped.
        akin.refuse_others(_all_under(contents, key, prefix), contents.path)
        convert.canonical(extracts.take(contents, selection).file)
    except UserError as error:
        complaint = str(error).splitlines()[0].removeprefix(f"{contents.path}: ")
    return Found(selection, len(rests), is_evaluated, complaint, tuple(unknown))


def _all_under(contents: Contents, key: str, prefix: str) -> Tensors:
    names = {name: plain_name(name) for name in contents.entries[key].names}
    kept = {name: p.removeprefix(prefix) for name, p in names.items() if p.startswith(prefix)}
    return contents.take(key, kept).tensors


def command(path: object, selection: Selection) -> str:
    """What to type to take a network out."""
    options = "".join(
        f" --{name}={shlex.quote(value)}" for name, value in selection._asdict().items() if value
    )
    return f"vtl weights convert {shlex.quote(str(path))} -o out.safetensors{options}"


def remedies(contents: Contents, error: UserError, tried: Selection) -> list[str]:
    """Lines to end a refusal with: the commands that would work, at most two.

    `error` is what the file is refused with if it is read as `tried` says.
    """
    networks = look(contents).networks
    working = [n for n in networks if not n.complaint and n.selection != tried]
    lines = [f"{reason(n)}: {command(contents.path, n.selection)}" for n in working]
    if len(lines) > 2:
        all_of_them = f"vtl weights inspect {shlex.quote(str(contents.path))}"
        return [lines[0], f"{len(lines) - 1} others: {all_of_them}"]
    if not lines and networks and networks[0].complaint.partition(":")[0] not in str(error):
        return [f"{networks[0].place} alone: {networks[0].complaint}"]
    return lines


def reason(network: Found) -> str:
    """When a network is the one to take."""
    if network.unknown:
        parts = ", ".join(printable(part, 40) for part in network.unknown[:3])
        more = ", …" if len(network.unknown) > 3 else ""
        return f"{network.place} without {parts}{more}, if they are no part of it"
    return network.place + (", which its authors evaluate" if network.is_evaluated else "")
