"""What stands beside or inside a weight file of others and says how to read it.

timm and Hugging Face write config.json beside it, Keras a model's config into it. Another network
than the tensors make up is refused by name; what isn't understood is a note, and the layout's own
way is assumed. None of it is believed further than it can be checked.
"""

import dataclasses
import json
from typing import Any

from vtl.errors import UserError
from vtl.models.architecture import Architecture
from vtl.preprocessing import Preprocessing
from vtl.untrusted import printable, read_json, reason_of
from vtl.weights.formats import WeightsFile, keras_h5
from vtl.weights.stated import hub, keras_model
from vtl.weights.statement import NotThisNetwork, Statement

CONFIG = "config.json"
PROCESSOR = "preprocessor_config.json"
HUB_FILES = ("model.safetensors.index.json", "model.safetensors", "pytorch_model.bin")
"""The names of weights whose own config.json lies beside them, the first to be taken first."""

_MAX_CONFIG_BYTES = 1 << 24


def read(file: WeightsFile, implied: Architecture) -> Statement:
    """All that is said about the network in `file`, whose tensors imply an architecture.

    Raises:
        UserError: it is said to be a network that vtl does not have, or another.
    """
    try:
        if keras_h5.CONFIG in file.metadata:
            return _inside(file, implied)
        return _beside(file, implied)
    except NotThisNetwork as error:
        raise UserError(f"{printable(file.path)}: {printable(error)}") from None


def _inside(file: WeightsFile, implied: Architecture) -> Statement:
    where = "its model_config"
    try:
        config = json.loads(file.metadata[keras_h5.CONFIG])
        return keras_model.read(config, implied)._replace(where=where)
    except NotThisNetwork as error:
        raise NotThisNetwork(f"{where} says {error}") from None
    # It may hold anything that JSON can.
    except Exception as error:
        return _not_read(where, reason_of(error))


def _beside(file: WeightsFile, implied: Architecture) -> Statement:
    path = file.path.with_name(CONFIG)
    where = f"{CONFIG} beside it"
    if not path.exists():
        return Statement()
    is_own = file.path.name in HUB_FILES
    try:
        config = read_json(path, max_bytes=_MAX_CONFIG_BYTES)
        processor_path = file.path.with_name(PROCESSOR)
        processor = (
            read_json(processor_path, max_bytes=_MAX_CONFIG_BYTES)
            if processor_path.exists()
            else None
        )
        return hub.read(config, processor, implied)._replace(where=where)
    except NotThisNetwork as error:
        if is_own:
            raise NotThisNetwork(f"{where} says {error}") from None
        # Beside a file of another name it may be of something else.
        return _not_read(where, f"it says {error}")
    except UserError as error:
        return _not_read(where, str(error).removeprefix(f"{printable(path)} "))
    # It may hold anything that JSON can.
    except Exception as error:
        return _not_read(where, reason_of(error))


def _not_read(where: str, reason: str) -> Statement:
    return Statement(where=where, unread=(printable(reason, 120),))


def prepared(statement: Statement, otherwise: Preprocessing) -> tuple[Preprocessing, Statement]:
    """The stated preprocessing, `otherwise` if nothing is said or it can't be done."""
    values: dict[str, Any] = dataclasses.asdict(otherwise) | statement.preprocessing
    size = statement.preprocessing.get("crop_size")
    if size and "resize_size" not in statement.preprocessing:
        values["resize_size"] = round(otherwise.resize_size * size / otherwise.crop_size)
    try:
        return Preprocessing.from_dict(values), statement
    except (ValueError, TypeError, KeyError):
        unread = (*statement.unread, "no photo can be prepared as it says")
        return otherwise, statement._replace(preprocessing={}, unread=unread)


def in_words(preprocessing: Preprocessing) -> str:
    """What is fed to a network, for a line that says what is assumed."""
    p = preprocessing
    mean, std = (" ".join(f"{x:.4g}" for x in values) for values in (p.mean, p.std))
    return f"{p.channels.upper()} times {p.scale:.4g}, mean {mean}, std {std}, {p.crop_size} pixels"
