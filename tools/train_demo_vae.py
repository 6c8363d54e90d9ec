#!/usr/bin/env python3
"""Train the demonstration VAE that `remote-vae` embeds, and write everything in `assets/`.

    python tools/train_demo_vae.py --out assets               # train, then export
    python tools/train_demo_vae.py --out assets --steps 200   # a quick try
    python tools/train_demo_vae.py --out assets --export-only # rewrite assets/ from the last checkpoint

Needs torch, diffusers, scikit-image and Pillow; runs on a CPU and uses no network. The random numbers come from
`--seed` and the schedule depends on the step alone, so a run with the same packages and threads repeats itself.
`--minutes` shortens the schedule to fit a time instead, and then the result depends on the machine.

What is trained: a small `AutoencoderKL` (8x down, 16 latent channels), as a pixel codec: squared error and a little
absolute and gradient error, a tiny KL term. The training images are the CC0 and public-domain photographs that the
scikit-image wheel ships (`TRAINING_IMAGES`) and synthetic pictures. `HELD_OUT` is never trained on and never used
to choose a checkpoint; it is the photograph whose latents and PSNR are shipped.
"""

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from PIL import Image, ImageDraw, ImageFont
from safetensors.torch import load_file, save_file
from skimage import data

# name in skimage.data -> how often a crop is taken from it (the three colour photographs of everyday things most).
# Licences as stated in skimage.data's documentation; images without a clear statement there are left out.
TRAINING_IMAGES = {
    "coffee": 3.0,  # CC0, Rachel Michetti
    "rocket": 3.0,  # public domain, SpaceX
    "chelsea": 2.5,  # CC0, Stefan van der Walt
    "camera": 1.5,  # CC0, Lav Varshney (grey)
    "hubble_deep_field": 0.7,  # public domain, NASA
    "retina": 0.5,  # CC0, Mikael Häggström
    "brick": 0.5,  # CC0, CC0Textures (grey)
    "grass": 0.5,  # CC0, CC0Textures (grey)
    "gravel": 0.5,  # CC0, CC0Textures (grey)
    "clock": 0.3,  # public domain, Stefan van der Walt (grey)
}
SYNTHETIC_WEIGHT = 1.5
HELD_OUT = "astronaut"  # public domain, NASA

# Full-resolution layers are narrow, because they cost most: about 43 GFLOP to decode 512x512. The norms have only
# two groups, because a group norm forgets the mean and the scale of each group: with the usual few channels a group
# and only 16 channels, too little is left of a picture's colours.
CONFIG = dict(
    in_channels=3,
    out_channels=3,
    down_block_types=("DownEncoderBlock2D",) * 4,
    up_block_types=("UpDecoderBlock2D",) * 4,
    block_out_channels=(16, 32, 64, 96),
    layers_per_block=1,
    latent_channels=16,
    norm_num_groups=2,
    sample_size=512,
    use_quant_conv=False,
    use_post_quant_conv=False,
    mid_block_add_attention=True,
    force_upcast=False,  # half precision is enough for these weights
)


def batch_shape(step, progress):
    """(crop size, batch): small crops first, because they give most steps for the time; large ones at the end and
    now and then before, because attention and the group norms see the whole picture and must not depend on its size.
    """
    if progress < 0.6:
        return (256, 1) if step % 12 == 11 else (64, 8)
    if progress < 0.9:
        return (256, 2) if step % 8 == 7 else (128, 4)
    return (512, 1) if step % 6 == 5 else (256, 2)


# ---------------------------------------------------------------------------------------------------- pictures


def load_image(name):
    """A `skimage.data` image as uint8 RGB."""
    image = getattr(data, name)()
    return np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image


def gradient(rng, size):
    """A smooth field: two colours blended along a random direction."""
    angle, ramp = rng.uniform(0, 2 * np.pi), np.linspace(-1, 1, size)
    t = np.cos(angle) * ramp[None, :] + np.sin(angle) * ramp[:, None]
    t = np.clip(t * rng.uniform(0.3, 1.5) + rng.uniform(-0.5, 0.5), -1, 1)[..., None] / 2 + 0.5
    return rng.uniform(0, 1, 3) * t + rng.uniform(0, 1, 3) * (1 - t)


def polygon_mask(rng, size):
    """A random polygon or ellipse with antialiased edges, in [0, 1]."""
    scale = 2
    mask = Image.new("L", (size * scale, size * scale))
    draw = ImageDraw.Draw(mask)
    center, radius = rng.uniform(0, size * scale, 2), rng.uniform(0.05, 0.6) * size * scale
    if rng.random() < 0.4:
        a, b = radius * rng.uniform(0.3, 1, 2)
        draw.ellipse([center[0] - a, center[1] - b, center[0] + a, center[1] + b], fill=255)
    else:
        angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 8)))
        points = center + radius * np.stack([np.cos(angles), np.sin(angles)], 1)
        draw.polygon([tuple(p) for p in points], fill=255)
    return np.asarray(mask.resize((size, size), Image.BOX), np.float64)[..., None] / 255


def synthetic(rng, size):
    """Gradients, shapes, lines and text: flat colours and sharp edges that photographs have too few of."""
    image = gradient(rng, size)
    for _ in range(rng.integers(1, 10)):
        mask = polygon_mask(rng, size)
        fill = gradient(rng, size) if rng.random() < 0.5 else rng.uniform(0, 1, 3)
        image = image * (1 - mask) + fill * mask
    canvas = Image.fromarray((image * 255).round().astype(np.uint8))
    draw = ImageDraw.Draw(canvas)
    for _ in range(rng.integers(0, 6)):
        colour = tuple(int(c) for c in rng.integers(0, 256, 3))
        if rng.random() < 0.5:
            draw.line([tuple(p) for p in rng.uniform(0, size, (2, 2))], fill=colour, width=int(rng.integers(1, 5)))
        else:
            letters = "".join(chr(c) for c in rng.integers(33, 127, rng.integers(2, 16)))
            font = ImageFont.load_default(int(rng.integers(8, 40)))
            draw.text(tuple(rng.uniform(-0.1, 0.8, 2) * size), letters, fill=colour, font=font)
    return np.asarray(canvas, np.float64) / 255


def photo_crop(rng, image, size):
    """A random crop, rescaled, flipped and turned, in [0, 1]."""
    height, width = image.shape[:2]
    scale = math.exp(rng.uniform(math.log(0.35), math.log(1.25)))
    side = min(round(size / scale), height, width)
    y, x = rng.integers(0, height - side + 1), rng.integers(0, width - side + 1)
    crop = Image.fromarray(image[y : y + side, x : x + side])
    if side != size:
        crop = crop.resize((size, size), Image.BICUBIC if rng.random() < 0.5 else Image.LANCZOS)
    crop = np.rot90(np.asarray(crop, np.float64) / 255, rng.integers(0, 4))
    return crop[:, ::-1] if rng.random() < 0.5 else crop


def jitter(rng, image):
    """New colours: permuted channels, saturation, gain, gamma and tint."""
    if rng.random() < 0.3:
        image = image[..., rng.permutation(3)]
    if rng.random() < 0.1:
        image = 1 - image
    grey = image.mean(2, keepdims=True)
    if np.ptp(image - grey) < 1e-6 and rng.random() < 0.7:
        # A grey photograph: map its shades onto a line between two colours.
        image = grey * rng.uniform(0.4, 1, 3) + (1 - grey) * rng.uniform(0, 0.5, 3)
    if rng.random() < 0.7:
        image = grey + (image - grey) * rng.uniform(0.3, 1.8)
        image = np.clip(image * rng.uniform(0.7, 1.25) * rng.uniform(0.85, 1.15, 3) + rng.uniform(-0.08, 0.08), 0, 1)
        image = image ** math.exp(rng.uniform(-0.4, 0.4))
    return np.clip(image, 0, 1)


class Pictures:
    """An endless supply of training crops."""

    def __init__(self, rng):
        self.rng = rng
        self.images = [load_image(name) for name in TRAINING_IMAGES]
        weights = np.array([*TRAINING_IMAGES.values(), SYNTHETIC_WEIGHT])
        self.weights = weights / weights.sum()

    def one(self, size):
        pick = self.rng.choice(len(self.weights), p=self.weights)
        if pick == len(self.images):
            return synthetic(self.rng, size)
        return jitter(self.rng, photo_crop(self.rng, self.images[pick], size))

    def batch(self, size, count):
        """`[count, 3, size, size]` in [-1, 1]; some are two pictures joined along a sharp edge."""
        pictures = []
        for _ in range(count):
            picture = self.one(size)
            if self.rng.random() < 0.15:
                mask = polygon_mask(self.rng, size)
                picture = picture * (1 - mask) + self.one(size) * mask
            pictures.append(picture)
        return torch.from_numpy(np.stack(pictures)).float().permute(0, 3, 1, 2).contiguous() * 2 - 1


# ---------------------------------------------------------------------------------------------------- training


def to_tensor(image):
    return torch.from_numpy(image.copy()).float().permute(2, 0, 1)[None] / 127.5 - 1


def psnr(decoded, image):
    """PSNR in dB of a float picture in [-1, 1], rounded to 8 bits as a pipeline rounds it, against uint8 pixels."""
    pixels = ((decoded / 2 + 0.5).clamp(0, 1) * 255).round()[0].permute(1, 2, 0).double().numpy()
    return float(10 * np.log10(255**2 / np.mean((pixels - image.astype(np.float64)) ** 2)))


def new_model():
    model = AutoencoderKL(**CONFIG)
    with torch.no_grad():
        # Every residual branch starts at zero, so that training starts from a plain resampling chain.
        for name, parameter in model.named_parameters():
            if name.endswith(("conv2.weight", "conv2.bias", "to_out.0.weight", "to_out.0.bias")):
                parameter.zero_()
        # The second half of the encoder's channels is the log variance: start with little noise.
        model.encoder.conv_out.bias[CONFIG["latent_channels"] :] = -6.0
    return model


def loss_of(model, pictures):
    posterior = model.encode(pictures).latent_dist
    decoded = model.decode(posterior.sample()).sample
    error = decoded - pictures
    edges = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
    kl = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).mean()
    return error.square().mean() + 0.02 * error.abs().mean() + 0.02 * edges + 2e-5 * kl


class Muon(torch.optim.Optimizer):
    """Momentum whose update is orthogonalised, for the weights of hidden convolutions (Keller Jordan, 2024).

    torch.optim.Muon takes matrices only; a convolution is taken here as the matrix `[out, in * kernel]`. In a run
    of minutes it gets about twice as far as AdamW.
    """

    def __init__(self, parameters, lr, momentum=0.95):
        super().__init__(parameters, dict(lr=lr, momentum=momentum))

    @staticmethod
    def orthogonalise(matrix):
        """Newton-Schulz iteration towards the nearest semi-orthogonal matrix, with Muon's usual coefficients."""
        transposed = matrix.shape[0] > matrix.shape[1]
        x = (matrix.T if transposed else matrix) / (matrix.norm() + 1e-7)
        for _ in range(5):
            gram = x @ x.T
            x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
        return x.T if transposed else x

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["average"] = torch.zeros_like(parameter)
                average = state["average"].lerp_(parameter.grad, 1 - group["momentum"])
                update = self.orthogonalise(parameter.grad.lerp(average, group["momentum"]).flatten(1))
                scale = max(1, update.shape[0] / update.shape[1]) ** 0.5
                parameter.add_(update.view_as(parameter), alpha=-group["lr"] * scale)


def new_optimizers(model, lr):
    """Muon for the hidden weights, AdamW for norms, biases and the two ends of encoder and decoder."""
    hidden, other = [], []
    for name, parameter in model.named_parameters():
        ends = "conv_in" in name or "conv_out" in name
        (hidden if parameter.ndim >= 2 and not ends else other).append(parameter)
    return Muon(hidden, lr=lr), torch.optim.AdamW(other, lr=lr / 8, betas=(0.9, 0.99), weight_decay=0)


def learning_rate_factor(step, progress):
    """Linear warm-up over 50 steps, then a cosine down to 1 % of the peak."""
    return min(1, (step + 1) / 50) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


@torch.no_grad()
def held_out_psnr(model):
    image = load_image(HELD_OUT)
    return psnr(model.decode(model.encode(to_tensor(image)).latent_dist.mode()).sample, image)


def train(args, checkpoint):
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    pictures = Pictures(rng)
    model, ema = new_model(), AutoencoderKL(**CONFIG)
    ema.load_state_dict(model.state_dict())
    optimizers = new_optimizers(model, args.lr)
    peaks = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    step, seconds_before, running = 0, 0.0, None
    if args.resume:
        state = torch.load(checkpoint, weights_only=False)
        model.load_state_dict(state["model"])
        ema.load_state_dict(state["ema"])
        for optimizer, saved in zip(optimizers, state["optimizers"]):
            optimizer.load_state_dict(saved)
        rng.bit_generator.state = state["numpy"]
        torch.set_rng_state(state["torch"])
        step, seconds_before = state["step"], state["seconds"]

    began = time.time()

    def seconds():
        return seconds_before + time.time() - began

    def save():
        state = dict(model=model.state_dict(), ema=ema.state_dict(), step=step, seconds=seconds())
        state.update(optimizers=[optimizer.state_dict() for optimizer in optimizers])
        state.update(numpy=rng.bit_generator.state, torch=torch.get_rng_state())
        torch.save(state, checkpoint.with_suffix(".tmp"))
        checkpoint.with_suffix(".tmp").replace(checkpoint)

    while True:
        progress = step / args.steps
        if args.minutes:
            progress = max(progress, seconds() / 60 / args.minutes)
        if progress >= 1:
            break
        for optimizer, peak in zip(optimizers, peaks):
            optimizer.param_groups[0]["lr"] = peak * learning_rate_factor(step, progress)
            optimizer.zero_grad()
        loss = loss_of(model, pictures.batch(*batch_shape(step, progress)))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        for optimizer in optimizers:
            optimizer.step()
        step += 1
        with torch.no_grad():
            decay = min(0.997, step / (10 + step))
            for average, parameter in zip(ema.parameters(), model.parameters()):
                average.lerp_(parameter, 1 - decay)
        running = loss.item() if running is None else 0.98 * running + 0.02 * loss.item()
        if step % 50 == 0:
            report = f" held-out PSNR {held_out_psnr(ema):.2f} dB" if step % 200 == 0 else ""
            print(f"step {step} ({progress:.0%}) loss {running:.5f} {seconds() / 60:.1f} min{report}", flush=True)
        if step % 100 == 0:
            save()
    save()


# ---------------------------------------------------------------------------------------------------- export


@torch.no_grad()
def latent_statistics(model):
    """Mean and standard deviation of the latents of the training photographs."""
    values = []
    for name in TRAINING_IMAGES:
        image = load_image(name)
        height, width = (min(side, 512) // 8 * 8 for side in image.shape[:2])
        values.append(model.encode(to_tensor(image[:height, :width])).latent_dist.mode().flatten())
    values = torch.cat(values)
    return values.mean().item(), values.std().item()


@torch.no_grad()
def export(checkpoint, out):
    """Write the f16 model, the held-out photograph and its latents, then measure what was written."""
    state = torch.load(checkpoint, weights_only=False)
    model = AutoencoderKL(**CONFIG)
    model.load_state_dict(state["ema"])
    # Statistics and latents come from the rounded weights, because those are what is shipped.
    model = model.half().float()
    mean, std = latent_statistics(model)
    model.register_to_config(shift_factor=round(mean, 4), scaling_factor=round(1 / std, 4))
    folder = out / "demo-vae"
    model.half().save_pretrained(folder)

    image = load_image(HELD_OUT)
    Image.fromarray(image).save(out / f"{HELD_OUT}.png", optimize=True)
    model = AutoencoderKL.from_pretrained(folder, torch_dtype=torch.float32).eval()
    shift, scale = model.config.shift_factor, model.config.scaling_factor
    latents = (model.encode(to_tensor(image)).latent_dist.mode() - shift) * scale
    path = out / "demo-latents" / f"{HELD_OUT}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"latents": latents.half().contiguous()}, path)

    latents = load_file(path)["latents"].float()
    decoded = model.decode(latents / scale + shift).sample
    report = {
        "steps": state["step"],
        "minutes": round(state["seconds"] / 60, 1),
        "parameters": sum(p.numel() for p in model.parameters()),
        "weights_bytes": (folder / "diffusion_pytorch_model.safetensors").stat().st_size,
        "shift_factor": shift,
        "scaling_factor": scale,
        "latents_std": round(latents.std().item(), 3),
        "psnr": round(psnr(decoded, image), 2),
    }
    print(json.dumps(report, indent=2))
    return decoded


def main():
    parser = argparse.ArgumentParser(description="Train the demonstration VAE and write assets/.")
    parser.add_argument("--out", type=Path, default=Path("assets"), help="folder to write (default: assets)")
    parser.add_argument("--steps", type=int, default=6000, help="optimizer steps")
    parser.add_argument("--minutes", type=float, help="end the schedule by then even if steps are left")
    parser.add_argument("--lr", type=float, default=0.016, help="peak learning rate of Muon; AdamW's is 1/8")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2, help="torch threads")
    parser.add_argument("--checkpoint", type=Path, default=Path("demo-vae-checkpoint.pt"))
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint")
    parser.add_argument("--export-only", action="store_true", help="write assets from the checkpoint, train nothing")
    parser.add_argument("--preview", type=Path, help="also save the decoded held-out photograph here")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # costs time and changes nothing here
    if not args.export_only:
        train(args, args.checkpoint)
    decoded = export(args.checkpoint, args.out)
    if args.preview:
        pixels = ((decoded / 2 + 0.5).clamp(0, 1) * 255).round().byte()[0].permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(args.preview)


if __name__ == "__main__":
    main()
