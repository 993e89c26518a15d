"""Settings of runs that older code made, in today's terms: their recipes are read, and their checkpoints go on."""

from __future__ import annotations

from typing import Any

from .recipe import SettingsError

# Options that left, each with the value at which it did nothing.
GONE = {
    "embeddings": False,
    "norm": 0.0,
    "ema": None,
    "compose": 0.0,
    "kv": 0.0,
    "unet": None,
    "position_bias": True,
    "skip": False,
    "zone_weights": {"position0": 1.0, "content": 1.0, "end": 1.0, "pad": 1.0},
}
LORA = {
    "lora_r": "r",
    "lora_alpha": "lora_alpha",
    "lora_targets": "target_modules",
    "lora_dropout": "lora_dropout",
    "lora_rslora": "use_rslora",
    "lora_dora": "use_dora",
}


def renewed(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings of a group, or of a finished stage, as today's version names them; those of today as they are.

    Raises SettingsError for an option in use that this version has no more.
    """
    used = [name for name, idle in GONE.items() if name in settings and settings[name] != idle]
    if used:
        raise SettingsError(
            f"made with {used[0]} {settings[used[0]]}, an option that has left the trainer; train anew without it"
        )
    new = {name: value for name, value in settings.items() if name not in (*GONE, *LORA, "lora_layers")}
    old = {new_name: settings[name] for name, new_name in LORA.items() if name in settings}
    if old:
        # What PEFT does not need to be told is not said, so that both versions' settings compare equal.
        new["lora"] = {name: value for name, value in old.items() if value not in (0.0, False)}
    if "lora_layers" in settings and settings.get("strategy") == "lora":
        new["layers"] = settings["lora_layers"]
    return new
