"""What can be built: student configurations, the joint search space, and their exact size.

Nothing in this room trains, schedules or stores.
"""

from space.config import Recipe, StudentConfig
from space.errors import InputError
from space.families import architecture_key, deployed_bytes, parse_config
from space.joint import JointSpace, SpaceSpec
from space.shape import TaskShape
from space.vocabulary import Vocabulary

__all__ = [
    "InputError",
    "JointSpace",
    "Recipe",
    "SpaceSpec",
    "StudentConfig",
    "TaskShape",
    "Vocabulary",
    "architecture_key",
    "deployed_bytes",
    "parse_config",
]
