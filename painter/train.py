"""Train the painter on English captions of the drawable world, and say how much of held-out captions it paints.

python -m painter.train --teacher DIR [--steps 5500] [--out painter/weights.safetensors]

DIR is the English encoder in Hugging Face layout. 5,500 steps take about 15 minutes on 2 CPU cores with bf16.
"""

import argparse
import math
import random
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from torch.nn.functional import mse_loss
from tqdm import trange

from painter import drawable, picture, unet
from painter.paint import score_encoder
from trainer.models.student import load_student
from zhclip.device import cpu_has_bf16

BATCH = 64
CAPTIONS = 16_000
"""Different captions that are learnt from; each is encoded once, before the first step."""
CHUNK = 256
EMPTY_SHARE = 0.1
LEARNING_RATE = 1e-3
WARM_UP = 50
TEXT_STEPS = 1500
"""So many steps come first in which the picture is all noise and only the text says what it shows. With all noise
levels from the start, the text was not read after 1,200 steps; so, it is after 400."""
NOISIEST = 960
NOISY_POWER = 0.25
"""Later a uniform number to this power is the noise level: half of them at 840 of 1,000 or more. Below, the picture
itself shows what it is of."""
BLUR = 0.6
"""The states are learnt from with noise of up to so many of their deviations: an aligned encoder is never exact."""


def rate(step: int, steps: int) -> float:
    """Learning rate of a step: linear warm-up, then half a cosine down to zero."""
    return LEARNING_RATE * min((step + 1) / WARM_UP, 0.5 + 0.5 * math.cos(math.pi * step / steps))


BLEND = 0.2
"""Later they are mixed with up to so much of another caption's: unsure encoders answer a mean of what they think of."""
BRIEF = 0.5
"""Share of captions that leave out what goes without saying."""


def blend(text: Tensor, other: Tensor, wanted: Tensor) -> Tensor:
    """States (B, P, S) with a random share of other ones in each row that is `wanted` (B,) bool."""
    return text.lerp(other, BLEND * torch.rand(len(text), 1, 1) * wanted[:, None, None])


@torch.no_grad()
def english_states(folder: Path, captions: list[str]) -> Tensor:
    """The last hidden states of the English encoder in a Hugging Face folder, what the painter is conditioned on.

    Returns (len(captions), 40, width), fp16. ValueError names a caption that is longer than the window.
    """
    encoder = load_student(str(folder), unet.WINDOW)
    longest = max(captions, key=encoder.tokens.length)
    if encoder.tokens.length(longest) > unet.WINDOW:
        raise ValueError(f"Caption over {unet.WINDOW} tokens: {longest!r}. Shorten it.")
    return torch.cat([encoder.encode(captions[at : at + CHUNK]).half() for at in range(0, len(captions), CHUNK)])


def latents(scenes: list[drawable.Scene], rng: random.Random) -> Tensor:
    """Render scenes to latents (B, 432, 3, 3)."""
    pixels = np.stack([picture.render(scene, rng) for scene in scenes])
    return unet.to_latent(torch.from_numpy(pixels).permute(0, 3, 1, 2))


def times(step: int, batch: int) -> Tensor:
    """Noise levels (B,) of a step: the noisiest at first, later all, the noisier the more often."""
    if step < TEXT_STEPS:
        return torch.randint(NOISIEST, 1000, (batch,))
    return (1000 * torch.rand(batch) ** NOISY_POWER).long().clamp(max=999)


def fit(
    teacher: Path, steps: int, seed: int = 0, batch: int = BATCH, captions: int = CAPTIONS
) -> tuple[UNet2DConditionModel, list[float]]:
    """Train a new painter on random scenes, none held out; returns it with the loss of every step."""
    torch.manual_seed(seed)
    rng = random.Random(seed)
    scenes = [drawable.random_scene(rng, held_out=False) for _ in range(captions)]
    # The empty prompt is the last row: guidance needs the painter to know it.
    texts = [drawable.english(scene, brief=rng.random() < BRIEF) for scene in scenes]
    states = english_states(teacher, [*texts, ""]).float()
    few = states[:2000].flatten(0, 1)
    # Some of the teacher's dimensions are constant.
    mean, deviation = few.mean(0), few.std(0).clamp(min=0.1)
    states = (states - mean) / deviation

    network, noise_schedule = unet.build().train(), unet.schedule()
    optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=0.01, fused=True)
    losses = []
    progress = trange(steps, desc="painter", mininterval=10)
    for step in progress:
        chosen = [rng.randrange(captions) for _ in range(batch)]
        empty = EMPTY_SHARE if step >= TEXT_STEPS else 0.0
        rows = [captions if rng.random() < empty else row for row in chosen]
        clean, level = latents([scenes[row] for row in chosen], rng), times(step, batch)
        noisy = noise_schedule.add_noise(clean, torch.randn_like(clean), level)
        text = states[rows]
        if step >= TEXT_STEPS:
            text = blend(text, states[torch.randint(captions, (batch,))], torch.tensor(rows) < captions)
        text = text + BLUR * torch.rand(batch, 1, 1) * torch.randn_like(text)
        with torch.autocast("cpu", torch.bfloat16, enabled=cpu_has_bf16()):
            predicted = network(noisy, level, text).sample
        loss = mse_loss(predicted.float(), clean)
        optimizer.param_groups[0]["lr"] = rate(step, steps)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        progress.set_postfix(loss=f"{np.mean(losses[-50:]):.4f}", refresh=False)
    unet.absorb(network, mean, deviation)
    return network.eval(), losses


def main(arguments: list[str] | None = None) -> None:
    """The command line of the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m painter.train", description=__doc__.partition("\n")[0])
    parser.add_argument("--teacher", type=Path, required=True, help="the English encoder, a Hugging Face folder")
    parser.add_argument("--steps", type=int, default=6500, help=f"optimizer steps of {BATCH} pictures")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=unet.WEIGHTS, help="where the fp16 weights go")
    options = parser.parse_args(arguments)
    network, losses = fit(options.teacher, options.steps, options.seed)
    unet.save(network, options.out)
    print(f"{options.out}: {options.steps} steps, loss {np.mean(losses[-50:]):.4f}")
    prompts = drawable.held_out_prompts()
    encode = load_student(str(options.teacher), unet.WINDOW).encode
    shares = score_encoder(network, encode, prompts, "en")
    print(*(f"{name} {share:.3f}" for name, share in shares.items()), sep=", ")


if __name__ == "__main__":
    main()
