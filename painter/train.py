"""Train the painter on English captions of the drawable world.

python -m painter.train --teacher DIR [--steps 1300] [--out painter/weights.safetensors]

DIR is the English encoder in Hugging Face layout. 1,300 steps take about 17 minutes on 2 CPU cores.
"""

import argparse
import math
import random
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import mse_loss
from tqdm import trange

from painter import drawable, picture, unet
from painter.teacher import english_states

BATCH = 64
EMPTY_SHARE = 0.1
LEARNING_RATE = 1e-3
WARM_UP = 50


def rate(step: int, steps: int) -> float:
    """Learning rate of a step: linear warm-up, then half a cosine down to zero."""
    return LEARNING_RATE * min((step + 1) / WARM_UP, 0.5 + 0.5 * math.cos(math.pi * step / steps))


def pictures(scenes: list[drawable.Scene], rng: random.Random) -> Tensor:
    """Render scenes to (B, 3, 16, 16) in -1..1."""
    pixels = np.stack([picture.render(scene, rng) for scene in scenes])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2) * 2 - 1


def fit(
    teacher: Path, steps: int, seed: int = 0, batch: int = BATCH, scene_count: int | None = None
) -> tuple[torch.nn.Module, list[float]]:
    """Train a new painter on all scenes or `scene_count` of them; returns it with the loss of every step."""
    torch.manual_seed(seed)
    rng = random.Random(seed)
    everything = drawable.scenes(held_out=False)
    scenes = rng.sample(everything, scene_count or len(everything))
    captions = [drawable.english_captions(scene) for scene in scenes]
    # The empty prompt is the last row: guidance needs the painter to know it.
    states = english_states(teacher, [caption for group in captions for caption in group] + [""])
    starts = np.cumsum([0, *map(len, captions)])

    network, schedule = unet.build().train(), unet.schedule()
    optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=0.01)
    losses = []
    progress = trange(steps, desc="painter", mininterval=10)
    for step in progress:
        chosen = [rng.randrange(len(scenes)) for _ in range(batch)]
        rows = [int(starts[i]) + rng.randrange(len(captions[i])) for i in chosen]
        rows = [len(states) - 1 if rng.random() < EMPTY_SHARE else row for row in rows]
        clean = pictures([scenes[i] for i in chosen], rng)
        noise = torch.randn_like(clean)
        times = torch.randint(0, schedule.config.num_train_timesteps, (batch,))
        noisy = schedule.add_noise(clean, noise, times)
        velocity = network(noisy, times, states[rows].float()).sample
        loss = mse_loss(velocity, schedule.get_velocity(clean, noise, times))
        optimizer.param_groups[0]["lr"] = rate(step, steps)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        progress.set_postfix(loss=f"{np.mean(losses[-50:]):.4f}", refresh=False)
    return network.eval(), losses


def main(arguments: list[str] | None = None) -> None:
    """The command line of the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m painter.train", description=__doc__.partition("\n")[0])
    parser.add_argument("--teacher", type=Path, required=True, help="the English encoder, a Hugging Face folder")
    parser.add_argument("--steps", type=int, default=1300, help="optimizer steps of 64 pictures")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=unet.WEIGHTS, help="where the fp16 weights go")
    options = parser.parse_args(arguments)
    network, losses = fit(options.teacher, options.steps, options.seed)
    unet.save(network, options.out)
    print(f"{options.out}: {options.steps} steps, loss {np.mean(losses[-50:]):.4f}")


if __name__ == "__main__":
    main()
