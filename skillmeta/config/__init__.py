"""YAML in, checked dataclasses out. The dataclass beside the code that uses it is the schema; YAML states differences.

A field's type says what its value may be, and the comment behind it what it means:

    @checked
    class Config:
        steps: PositiveInt = 10_000  # gradient steps
        goal: Literal["velocity", "direction"] = "velocity"  # what a task asks for

`load` reads a file with its bases and presets, `build` fills the dataclass, `keys` lists what it has.
"""

from skillmeta.config.build import build as build
from skillmeta.config.build import checked as checked
from skillmeta.config.describe import Key as Key
from skillmeta.config.describe import described as described
from skillmeta.config.describe import keys as keys
from skillmeta.config.load import config_dir as config_dir
from skillmeta.config.load import find_config as find_config
from skillmeta.config.load import list_configs as list_configs
from skillmeta.config.load import load as load
from skillmeta.config.load import override as override
from skillmeta.config.load import stack as stack
from skillmeta.config.modules import check_config as check_config
from skillmeta.config.modules import import_module as import_module
from skillmeta.config.modules import is_builtin as is_builtin
from skillmeta.config.modules import module_of as module_of
from skillmeta.config.plain import check_file_name as check_file_name
from skillmeta.config.plain import check_readable as check_readable
from skillmeta.config.plain import differences as differences
from skillmeta.config.plain import dump_yaml as dump_yaml
from skillmeta.config.plain import read_yaml as read_yaml
from skillmeta.config.plain import to_plain as to_plain
from skillmeta.config.values import Bound as Bound
from skillmeta.config.values import DeviceName as DeviceName
from skillmeta.config.values import NonNegativeFloat as NonNegativeFloat
from skillmeta.config.values import NonNegativeInt as NonNegativeInt
from skillmeta.config.values import OneOf as OneOf
from skillmeta.config.values import OptionsOf as OptionsOf
from skillmeta.config.values import PositiveFloat as PositiveFloat
from skillmeta.config.values import PositiveInt as PositiveInt
from skillmeta.config.values import Range as Range
from skillmeta.config.values import Share as Share
from skillmeta.errors import first_line as first_line
