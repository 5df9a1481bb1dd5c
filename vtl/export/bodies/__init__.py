"""Networks below their heads in other runtimes: a module a family."""

from types import ModuleType

from vtl.errors import UserError
from vtl.export.bodies import resnet
from vtl.weights.sources import Weights

_BODIES = (resnet,)


def of(weights: Weights) -> ModuleType:
    """The module of the network's family.

    Raises:
        UserError: there is none.
    """
    own = weights.architecture
    for module in _BODIES:
        if module.FAMILY is type(own):
            return module
    raise UserError(f"a {own.title} can only be exported as .stablehlo")
