"""Makes fixtures/latents: files with latents as NumPy and PyTorch write them, for the tests of `remote-vae decode`.

    ~/.cache/remote-vae/venv/bin/python tools/make_latents_fixtures.py

Each tensor has the values 0, 1, 2, ... in C order, so the tests know what they must find. The last files are ones that
no honest program writes: a pickle that would run a command when it is loaded by Python, and one that refers to itself.
"""

import collections
import gzip
import io
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import torch

OUT = Path(__file__).resolve().parents[1] / "fixtures" / "latents"


def counting(*shape: int, dtype: torch.dtype = torch.float16) -> torch.Tensor:
    return torch.arange(int(np.prod(shape)), dtype=torch.float32).reshape(shape).to(dtype)


class Command:
    """What an attacker would send."""

    def __reduce__(self):
        return os.system, ("touch /tmp/a-pickle-was-run",)


def archive(pickled: bytes) -> bytes:
    """A file that looks like one of torch.save, around any pickle."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as zipped:
        zipped.writestr("archive/data.pkl", pickled)
        zipped.writestr("archive/byteorder", "little")
    return file.getvalue()


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    latents = counting(1, 4, 2, 3)

    torch.save(latents, OUT / "tensor.pt")
    torch.save(latents.bfloat16(), OUT / "bfloat16.pt")
    torch.save(latents.float(), OUT / "protocol-5.pt", pickle_protocol=5)
    torch.save([latents, counting(1, 4, 1, 1)], OUT / "list.pt")
    torch.save({"second": latents, "prompt": "a fox", "seed": 1 << 40, "first": (latents,), "scale": 0.5}, OUT / "dict.pt")
    state = collections.OrderedDict(latents=torch.nn.Parameter(latents.float()))
    torch.save(state, OUT / "parameter.pt")
    # The values in another order than in memory, in the middle of a larger storage.
    torch.save(counting(2, 3, 4, 2)[1].permute(1, 2, 0), OUT / "strided.pt")
    torch.save(counting(1, 4, 1, 1).expand(1, 4, 2, 3), OUT / "expanded.pt")
    torch.save(latents.double(), OUT / "float64.pt")
    torch.save(latents.long(), OUT / "integers.pt")
    # As OneTrainer caches a picture: latents and mask without their batch axis, and what is no tensor.
    cached = {"latent_image": latents[0], "latent_mask": counting(1, 2, 3), "crop_offset": (0, 0)}
    torch.save(cached, OUT / "onetrainer.pt")
    # As SimpleTuner compresses its cache.
    plain = io.BytesIO()
    torch.save(latents, plain)
    (OUT / "compressed.pt").write_bytes(gzip.compress(plain.getvalue(), mtime=0))
    torch.save({"prompt": "no latents"}, OUT / "nothing.pt")
    torch.save(latents, OUT / "legacy.pt", _use_new_zipfile_serialization=False)

    array = latents.numpy()
    np.save(OUT / "half.npy", array)
    np.save(OUT / "float.npy", array.astype(np.float32))
    np.save(OUT / "big-endian.npy", array.astype(">f4"))
    np.save(OUT / "fortran.npy", np.asfortranarray(array))
    np.save(OUT / "one-axis.npy", array.ravel())
    np.save(OUT / "float64.npy", array.astype(np.float64))
    np.save(OUT / "integers.npy", array.astype(np.int64))
    # NumPy's name for bfloat16 of ml_dtypes, of which it only knows the size.
    np.save(OUT / "bfloat16.npy", latents.bfloat16().view(torch.uint16).numpy().view("V2"))
    np.save(OUT / "records.npy", np.zeros(2, dtype=[("a", "<f4"), ("b", "<f4")]))
    np.savez(OUT / "several.npz", first=array, second=array.astype(np.float32))
    np.savez_compressed(OUT / "compressed.npz", latents=array)

    (OUT / "command.pt").write_bytes(archive(pickle.dumps({"latents": Command()}, protocol=2)))
    endless: list = []
    endless.append(endless)
    (OUT / "endless.pt").write_bytes(archive(pickle.dumps(endless, protocol=2)))
    doubled: list = []
    for _ in range(100):
        doubled = [doubled, doubled]
    (OUT / "doubled.pt").write_bytes(archive(pickle.dumps(doubled, protocol=2)))


if __name__ == "__main__":
    main()
