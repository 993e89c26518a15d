"""The encoder as one file: from a trained run or from a published encoder, read back and compared, and sent to a model
hub. It hands on the safetensors file that the nodes load."""

from .convert import convert_published
from .export import FILE, ExportError, export_run, installed
from .publish import PublishError, publish_run
