"""One file is one operation of a recipe."""

from memcard.core.registry import Registry
from memcard.recipes.op import Op

OPS: Registry[Op] = Registry("memcard.ops")
