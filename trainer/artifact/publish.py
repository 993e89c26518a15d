"""A finished run to a model hub: its encoder, its adapter, and a model card with its settings and scores.

Nothing is sent without --push. HF_ENDPOINT and the token are read by huggingface_hub.
"""

from __future__ import annotations

import logging
from pathlib import Path

import yaml
from huggingface_hub import CommitOperationAdd, HfApi, ModelCard, ModelCardData, get_token

from zhclip.artifact import Artifact, load
from zhclip.schema import Meta

from ..base.errors import TrainerError, one_line
from ..base.files import hold, write_text
from ..base.recipe import SettingsError
from ..base.settings import require
from ..base.stage_settings import PublishSettings
from ..progress import Listener
from ..report.tables import to_markdown
from .export import FILE

log = logging.getLogger(__name__)
TEMPLATE = Path(__file__).with_name("card.md")
TAGS = ["comfyui", "zhclip", "stable-diffusion", "text-encoder", "chinese"]


class PublishError(TrainerError):
    """An encoder that should not be published, or a hub that refuses it."""


def publish_run(settings: PublishSettings, progress: Listener | None = None) -> None:
    """Stage `publish`: RUN/card/README.md, and with --push a commit to the hub.

    Raises SettingsError, ArtifactError, and PublishError for a run without a report, for an encoder that is not
    aligned, and for whatever keeps the hub from taking it.
    """
    folder = Path(require(settings.run, "run", "the folder of a finished run"))
    encoder, readme = folder / FILE, folder / "card" / "README.md"
    if not encoder.is_file():
        raise SettingsError(f"{encoder}: no such file; run the export stage first (`python -m trainer export`)")
    artifact = load(encoder)
    require_aligned(artifact.meta, encoder)
    repo = repository(settings.repo or f"zhclip-{folder.resolve().name}")
    name = f"{repo.rpartition('/')[2]}.safetensors"  # many encoders share one folder models/text_encoders
    with hold(folder, "--run"):
        write_text(readme, model_card(artifact, repo, name))
    files = {"README.md": readme, name: encoder}
    if "lora" in artifact.meta.strategy:  # without PEFT's empty card
        parts = (path for path in sorted((folder / "adapter").glob("*")) if path.suffix != ".md")
        files |= {f"adapter/{path.name}": path for path in parts}
    for path_in_repo, path in files.items():
        log.info(f"publish: {path} -> {HfApi().endpoint}/{repo}/{path_in_repo}, {path.stat().st_size / 1e6:.1f} MB")
    if artifact.meta.licence == "unknown":
        log.info("publish: the licence on the card is unknown; export again with --export.licence to state it")
    if settings.push:
        log.info(f"publish: pushed, {push(repo, files)}")
    else:
        log.info("publish: nothing was sent; read the card, and repeat the command with --push")


def repository(given: str) -> str:
    """OWNER/NAME of --repo or of its default; the owner is by default who is logged in. Raises SettingsError."""
    if "/" in given:
        return given
    try:
        return f"{HfApi().whoami()['name']}/{given}"
    except Exception as error:
        hint = f"give --repo OWNER/{given}, or log in with `hf auth login`"
        raise SettingsError(f"--repo {given}: no owner, and none from the hub ({one_line(error)}); {hint}") from error


def require_aligned(meta: Meta, path: Path) -> None:
    """Raise PublishError unless the encoder's report shows that it is aligned."""
    if not meta.report:
        raise PublishError(f"{path}: no report says how good it is; publish an encoder that the export stage wrote")
    loss, constant = meta.report["loss"]["all"], meta.report["baselines"]["constant"]["all"]
    if not loss < constant:
        raise PublishError(
            f"{path}: its loss of {loss:.3f} is no better than a constant's {constant:.3f}, so pictures would ignore "
            "the prompt; train longer or with other settings, and export again"
        )


def model_card(artifact: Artifact, repo: str, file: str) -> str:
    """The model card: metadata for the hub, and card.md filled in."""
    meta, recipe = artifact.meta, artifact.meta.recipe
    student, pairs = recipe["student"]["model"], recipe["corpus"]["train"]
    corpora = [pairs] if isinstance(pairs, str) else [source["path"] for source in pairs]
    data = ModelCardData(
        language=["zh", "en"],
        license=meta.licence.lower(),  # the hub writes SPDX ids in small letters
        tags=[*TAGS, *(["lora"] if "lora" in meta.strategy else [])],
        base_model=student if "/" in student else None,
        datasets=[name for name in corpora if "/" in name] or None,
    )
    card = ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        repo=repo,
        name=repo.rpartition("/")[2],
        file=file,
        meta=meta,
        student=student,
        corpora=", ".join(corpora),
        dev=meta.report["corpus"]["name"],
        report=to_markdown(meta.report).partition("\n")[2].strip(),  # without its heading
        recipe=yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True).strip(),
        skip=bool(artifact.skip),
    )
    return card.content.rstrip() + "\n"


def push(repo: str, files: dict[str, Path]) -> str:
    """Create the repository if there is none, and send all files in one commit. Returns the commit's address."""
    if get_token() is None:
        raise PublishError(f"--repo {repo}: no token for the hub; log in with `hf auth login`, or set HF_TOKEN")
    api = HfApi()
    operations = [CommitOperationAdd(name, path) for name, path in files.items()]
    try:
        repository = api.create_repo(repo, exist_ok=True)
        commit = api.create_commit(repository.repo_id, operations, commit_message="Publish a ZhCLIP encoder")
    except Exception as error:
        raise PublishError(f"--repo {repo}: {api.endpoint} did not take it ({one_line(error)})") from error
    return commit.commit_url
