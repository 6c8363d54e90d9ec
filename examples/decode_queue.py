"""Generate and decode at the same time, with diffusers' own client: no change to it, a thread and a queue beside it.

    python examples/decode_queue.py http://127.0.0.1:8080/ pictures/

While the server decodes the latents of one prompt, the pipeline already makes those of the next. `generate` stands in
for a pipeline, so that this runs anywhere against `remote-vae serve`; with a real one it is

    pipe = StableDiffusionPipeline.from_pretrained(..., vae=None).to("cuda")
    latents = pipe(prompt, output_type="latent").images
"""

import queue
import sys
import threading
from pathlib import Path

import torch
from diffusers.utils.remote_utils import remote_decode

PROMPTS = ["a fox in the snow", "a lighthouse", "a bowl of cherries", "a paper boat", "an old clock", "a field of rye"]


def generate(prompt: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(len(prompt))
    return torch.randn(1, 16, 32, 32, generator=generator).half()


def main(endpoint: str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    # Bounded: a pipeline that is faster than the server waits instead of filling the memory.
    todo: queue.Queue = queue.Queue(maxsize=4)
    failures = []

    def decode_worker() -> None:
        while (item := todo.get()) is not None:
            number, latents = item
            try:
                image = remote_decode(endpoint, latents, image_format="png")
                image.save(folder / f"{number}.png")
                print(f"decoded {number}: {PROMPTS[number]}", flush=True)
            except Exception as error:  # one picture that fails is no reason to lose the others
                failures.append(error)
                print(f"failed {number}: {error}", file=sys.stderr, flush=True)

    worker = threading.Thread(target=decode_worker)
    worker.start()
    for number, prompt in enumerate(PROMPTS):
        todo.put((number, generate(prompt)))
    todo.put(None)  # no more will come
    worker.join()
    if failures:
        sys.exit(f"{len(failures)} of {len(PROMPTS)} failed")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(f"usage: python {sys.argv[0]} URL FOLDER, such as http://127.0.0.1:8080/ pictures/")
    main(sys.argv[1], Path(sys.argv[2]))
