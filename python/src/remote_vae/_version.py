"""The version of the installed package."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("remote-vae")
except PackageNotFoundError:
    # The sources are on the path, and nothing is installed.
    __version__ = "0+source"
