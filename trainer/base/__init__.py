"""What every room stands on: the recipe and the stages' settings, files that are whole or not there, locks, failures
in one line, processes and the device. It hands on plain functions and dataclasses, and imports no other room."""

from .allocator import keep_freed_memory
from .comfyui import clip_tokenizer, comfyui_around, install_folder
from .failures import full_disk, goes_on, say, stoppable
from .files import DamagedError, read_header, read_json, read_tensors, scratch, sweep, write_tensors, write_text
from .html import STYLE, table
from .locks import BusyError, hold, hold_cache, hold_run
from .processes import cpu_has_bf16, default_device, has_bf16, processes
from .recipe import (
    STARTER,
    CacheSettings,
    CorpusSettings,
    Recipe,
    SettingsError,
    Source,
    StudentSettings,
    TeacherSettings,
    TrainSettings,
)
from .settings import (
    corpus_name,
    guard,
    parse_recipe,
    public,
    public_name,
    recipe_parser,
    require,
    sources,
    to_recipe,
    to_yaml,
)
from .stage_settings import (
    CompareReportsSettings,
    CompareSettings,
    ConvertSettings,
    EvaluateSettings,
    PublishSettings,
    SweepSettings,
    TranslateSettings,
    Translation,
)

__all__ = [
    "STARTER",
    "STYLE",
    "BusyError",
    "CacheSettings",
    "CompareReportsSettings",
    "CompareSettings",
    "ConvertSettings",
    "CorpusSettings",
    "DamagedError",
    "EvaluateSettings",
    "PublishSettings",
    "Recipe",
    "SettingsError",
    "Source",
    "StudentSettings",
    "SweepSettings",
    "TeacherSettings",
    "TrainSettings",
    "TranslateSettings",
    "Translation",
    "clip_tokenizer",
    "comfyui_around",
    "corpus_name",
    "cpu_has_bf16",
    "default_device",
    "full_disk",
    "goes_on",
    "guard",
    "has_bf16",
    "hold",
    "hold_cache",
    "hold_run",
    "install_folder",
    "keep_freed_memory",
    "parse_recipe",
    "processes",
    "public",
    "public_name",
    "read_header",
    "read_json",
    "read_tensors",
    "recipe_parser",
    "require",
    "say",
    "scratch",
    "sources",
    "stoppable",
    "sweep",
    "table",
    "to_recipe",
    "to_yaml",
    "write_tensors",
    "write_text",
]
