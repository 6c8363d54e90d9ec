"""A real browser for the tests: headless Chromium, driven by Playwright."""

import os
import shutil
from pathlib import Path

from place import CACHE

# In a container there is often no namespace to build a sandbox from; and a browser at rest must ask nobody anything,
# because tests look at every request that it makes.
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
NAMES = ["chromium", "chromium-headless-shell", "google-chrome", "google-chrome-stable"]


def executable() -> Path:
    """`$CHROMIUM`, or what is on the path, or what `./test` has put into the cache."""
    if named := os.environ.get("CHROMIUM"):
        return Path(named)
    for name in NAMES:
        if found := shutil.which(name):
            return Path(found)
    cached = CACHE / "chromium" / "chromium"
    assert cached.exists(), f"no Chromium on the path and none at {cached}; run `tools/install_chromium.sh {cached.parent}`"
    return cached
