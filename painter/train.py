"""Train the painter on English captions of the drawable world, and score it on held-out ones.

python -m painter.train --teacher DIR [--steps 6500] [--out painter/weights.safetensors]

DIR is the English encoder in Hugging Face layout. It takes about half an hour on 2 CPU cores with bf16.
"""

import argparse
import math
import random
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from torch.nn.functional import mse_loss
from tqdm import trange

from painter import drawable, picture, unet
from painter.paint import score_prompts
from trainer.models.student import load_student
from zhclip.device import cpu_has_bf16
from zhclip.io import save_tensors

BATCH, CAPTIONS = 64, 16_000
LEARNING_RATE, WARM_UP = 1e-3, 50
EMPTY_SHARE = 0.1
"""Share of pictures with the empty prompt, which classifier-free guidance needs."""
TEXT_STEPS, NOISIEST = 1500, 960
"""In the first steps the noise level is 960 or more of 1,000: the picture is all noise and only the text says what it
shows. With all noise levels from the start, the text was not read after 1,200 steps; so, it is after 400."""
NOISY_POWER = 0.25
"""Later the noise level is a uniform number to this power: half of them at 840 of 1,000 or more. Below, the picture
itself shows what it is of."""
BLUR = 0.6
"""Noise on the states, of up to this share of their deviations: an aligned encoder is never exact."""
BLEND = 0.2
"""Largest share of another caption's states in a caption's: an unsure encoder gives a mean of several captions."""
BRIEF = 0.5
"""Share of brief captions (drawable.english)."""


def rate(step: int, steps: int) -> float:
    """Learning rate of a step: linear warm-up, then half a cosine down to zero."""
    return LEARNING_RATE * min((step + 1) / WARM_UP, 0.5 + 0.5 * math.cos(math.pi * step / steps))


def fit(
    teacher: Path, steps: int, seed: int = 0, batch: int = BATCH, captions: int = CAPTIONS
) -> tuple[UNet2DConditionModel, list[float]]:
    """Train a new painter on random scenes, none held out; returns it with the loss of every step."""
    torch.manual_seed(seed)
    rng = random.Random(seed)
    scenes = [drawable.random_scene(rng, held_out=False) for _ in range(captions)]
    # The empty prompt is the last row: guidance needs the painter to know it.
    texts = [drawable.english(scene, brief=rng.random() < BRIEF) for scene in scenes]
    states = load_student(str(teacher), unet.WINDOW).encode([*texts, ""])  # (N, 40, 384)
    sample = states[:2000].flatten(0, 1)
    mean, deviation = sample.mean(0), sample.std(0).clamp(min=0.1)  # some of the teacher's dimensions are constant
    states = (states - mean) / deviation

    network, noise_schedule = unet.build().train(), unet.schedule()
    optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=0.01, fused=True)
    losses = []
    progress = trange(steps, desc="painter", mininterval=10)
    for step in progress:
        chosen = [rng.randrange(captions) for _ in range(batch)]
        empty = EMPTY_SHARE if step >= TEXT_STEPS else 0.0
        rows = [captions if rng.random() < empty else row for row in chosen]
        pixels = np.stack([picture.render(scenes[row], rng) for row in chosen])
        clean = unet.to_latent(torch.from_numpy(pixels).movedim(-1, 1))
        if step < TEXT_STEPS:
            level = torch.randint(NOISIEST, 1000, (batch,))
        else:
            level = (1000 * torch.rand(batch) ** NOISY_POWER).long().clamp(max=999)
        noisy = noise_schedule.add_noise(clean, torch.randn_like(clean), level)
        text = states[rows]
        if step >= TEXT_STEPS:
            other, prompted = states[torch.randint(captions, (batch,))], torch.tensor(rows) < captions
            text = text.lerp(other, BLEND * torch.rand(batch, 1, 1) * prompted[:, None, None])
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
    parser.add_argument("--out", type=Path, default=unet.WEIGHTS, help="the file of fp16 weights")
    options = parser.parse_args(arguments)
    network, losses = fit(options.teacher, options.steps, options.seed)
    save_tensors(options.out, {name: tensor.half() for name, tensor in network.state_dict().items()})
    print(f"{options.out}: {options.steps} steps, loss {np.mean(losses[-50:]):.4f}")
    scenes = drawable.held_out_scenes()
    encode = load_student(str(options.teacher), unet.WINDOW).encode
    shares = score_prompts(network, encode, [*map(drawable.english, scenes)], scenes)
    print(*(f"{name} {share:.3f}" for name, share in shares.items()), sep=", ")


if __name__ == "__main__":
    main()
