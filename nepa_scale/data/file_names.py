"""What names tell of files: which are images, and which are not meant to be read. Standard library only."""

from __future__ import annotations

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff"}
    | {".ppm", ".pgm", ".pbm", ".pnm"}
)  # of the formats that decode.py reads
_SYSTEM_FOLDERS = frozenset(
    {"__macosx", "@eadir", "@__thumb", "@recycle", "#recycle", "#snapshot", "$recycle.bin", "__pycache__"}
    | {"lost+found", "system volume information"}
)  # of macOS, network disks, Windows, Python and file systems


def is_image(name: str) -> bool:
    """Whether a file is an image by its extension, in small or capital letters."""
    return name.lower().endswith(tuple(IMAGE_SUFFIXES))


def is_clutter(name: str) -> bool:
    """Whether a file or folder, by its own name without folders, is hidden or made by a system for itself."""
    return name.startswith(".") or name.lower() in _SYSTEM_FOLDERS
