"""Compares our mp4 files with libx264's at CRF 25: size, SSIM and PSNR of a moving picture.

    cargo build --release -p remote-vae-media --example mp4
    pip install imageio-ffmpeg          # brings an ffmpeg with libx264; not needed for anything else
    python tools/compare_mp4.py target/release/examples/mp4 [QUALITY ...]

The picture is `assets/astronaut.png`, over which a window of 512x320 pans, zooms and turns a little for 61 frames.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import av
import imageio_ffmpeg
import numpy as np
from PIL import Image
from skimage.metrics import structural_similarity

WIDTH, HEIGHT, FRAMES = 512, 320, 61


def moving() -> np.ndarray:
    picture = Image.open(Path(__file__).parent.parent / "assets" / "astronaut.png").convert("RGB").resize((1024, 1024), Image.LANCZOS)
    frames = []
    for t in range(FRAMES):
        scale, angle = 1.6 - 0.006 * t, np.radians(0.15 * t)
        a, b = scale * np.cos(angle), scale * np.sin(angle)
        move = (a, -b, 40 + 2.3 * t, b, a, 120 + 1.1 * t)
        frames.append(np.asarray(picture.transform((WIDTH, HEIGHT), Image.AFFINE, move, Image.BICUBIC)))
    return np.stack(frames)


def decoded(path: str) -> np.ndarray:
    with av.open(path) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def report(name: str, path: str, frames: np.ndarray) -> None:
    got = decoded(path)
    ssim = np.mean([structural_similarity(a, b, channel_axis=2) for a, b in zip(frames, got, strict=True)])
    psnr = 10 * np.log10(255**2 / np.mean((frames.astype(float) - got) ** 2))
    print(f"{name:24} {Path(path).stat().st_size:8} bytes  SSIM {ssim:.4f}  PSNR {psnr:.2f} dB")


def main() -> None:
    frames = moving()
    with tempfile.TemporaryDirectory() as folder:
        x264 = f"{folder}/x264.mp4"
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24"]
        command += ["-s", f"{WIDTH}x{HEIGHT}", "-r", "15", "-i", "-", "-c:v", "libx264", "-crf", "25"]
        command += ["-vf", "scale=out_color_matrix=bt709:out_range=tv", "-pix_fmt", "yuv420p", "-colorspace", "bt709", x264]
        subprocess.run(command, input=frames.tobytes(), check=True)
        report("libx264, CRF 25", x264, frames)
        for quality in sys.argv[2:] or [""]:
            ours = f"{folder}/ours{quality}.mp4"
            command = [sys.argv[1], str(WIDTH), str(HEIGHT), *([quality] if quality else [])]
            Path(ours).write_bytes(subprocess.run(command, input=frames.tobytes(), check=True, capture_output=True).stdout)
            report(f"ours, quality {quality or 'default'}", ours, frames)


if __name__ == "__main__":
    main()
