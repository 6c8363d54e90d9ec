#!/usr/bin/env bash
# diffusers' remote_decode sends a tensor's memory, not its values in order.
#
# Seen with diffusers 0.42.1, safetensors 0.8.0 and torch 2.15.0 on a processor. `prepare_decode` states the tensor's
# shape and takes its bytes from `safetensors.torch._to_ndarray`, which reads from the tensor's address on and does not
# look at the strides. For latents in channels-last order, a transposed view or a slice with a step, the bytes are
# those of another tensor of the same shape. The server cannot tell: the picture is wrong without a word.
# `latents.contiguous()`, kept in a variable, gives the right bytes.
#
# Run by hand; needs Python 3 and some gigabytes in the temporary folder, for torch. Fails if the behaviour changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet \
    diffusers==0.42.1 numpy==2.4.6 pillow==13.0.0 requests==2.34.2 safetensors==0.8.0 torch==2.15.0
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from diffusers.utils.remote_utils import prepare_decode

x = torch.arange(2 * 4 * 6 * 6, dtype=torch.float32).reshape(2, 4, 6, 6)
cases = {
    "contiguous": (x, True),
    "second item of a batch": (x[1:], True),
    "channels_last": (x.to(memory_format=torch.channels_last), False),
    "height and width exchanged, as a view": (x.transpose(2, 3), False),
    "every second column": (x[..., ::2], False),
}
for name, (tensor, right) in cases.items():
    expected = tensor.contiguous().numpy().tobytes()
    sent = prepare_decode(tensor, scaling_factor=1.0)
    same = sent["data"] == expected
    print(f"remote_decode, {name}: shape {sent['params']['shape']}, {'right' if same else 'WRONG'} bytes")
    assert len(sent["data"]) == len(expected) and same == right, name
    kept = tensor.contiguous()
    assert prepare_decode(kept, scaling_factor=1.0)["data"] == expected, name
print("after .contiguous(), kept in a variable: right bytes for each")
PYTHON
echo 'As described.'
