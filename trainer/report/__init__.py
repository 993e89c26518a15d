"""How close an encoder comes, beside what needs no training to come as close: losses by zone, floors, retrieval, and
the pages that show them. It hands on RUN/report.json and what the artifact stores beside the weights."""

from .differences import compare_reports
from .floors import answers
from .further import cache_further, score_further
from .markdown import to_markdown
from .predictors import LABELS, by_predictor
from .stage import Finished, evaluate, evaluate_run, strategy_name
