"""What every room stands on: the recipe and the stages' settings, files that are whole or not there, locks, failures
in one line, processes and the device. It hands on plain functions and dataclasses, and imports no other room."""

from .allocator import keep_freed_memory
from .comfyui import clip_tokenizer, install_folder
from .failures import free_bytes, full_disk, goes_on, reason, say, stoppable
from .files import (
    DamagedError,
    file_sha256,
    read_header,
    read_json,
    read_tensors,
    replacing,
    replacing_folder,
    scratch,
    sweep,
    write_tensors,
    write_text,
)
from .html import STYLE, document, markdown_table, table
from .locks import BusyError, hold, hold_cache, hold_run
from .processes import best_precision, cpu_has_bf16, default_device, has_bf16, processes
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
    Parser,
    corpus_name,
    guard,
    parse_recipe,
    public,
    public_name,
    recipe_parser,
    require,
    require_size,
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
