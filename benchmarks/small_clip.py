"""Train the small CLIP that the zoo carries, and tell what it does zero-shot; one core, minutes."""

import argparse
import pathlib
import time

import torch

from assay.randomness import Seed
from assay_zoo import clip
from assay_zoo.data.pictured import TASKS, read_captions, read_task


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=pathlib.Path, default=clip.BUNDLED)
    parser.add_argument("--steps", type=int, default=clip.SmallClip().steps)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    tasks = [read_task(name) for name in TASKS]
    captioned, _ = read_captions()
    start = time.process_time()
    model, tokenizer = clip.SmallClip(steps=asked.steps)(tasks, captioned, seed=Seed(asked.seed))
    print(f"trained in {time.process_time() - start:.0f} s of processor time")
    asked.out.mkdir(parents=True, exist_ok=True)
    clip.write(model, tokenizer, asked.out)
    for task in tasks:
        images, labels = task.test.inputs[:], task.test.labels
        found = clip.zero_shot(model, tokenizer, images, task.class_names)
        print(f"{task.name}: {(found == labels).float().mean():.3f} of {len(labels)} test images")


if __name__ == "__main__":
    main()
