"""The poses of an exported file, found in a process that may crash; `trial` starts it.

`python -m rap.export.apart FILE DEVICE FOLDER`: the images in FOLDER, one batch after the other, to
the poses there. What it was at is in a file, too, for when it does not come to its end.
"""

import faulthandler
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from rap import log
from rap.export.artifact import load_artifact
from rap.export.trial import IMAGES, LIMIT_S, POSES, STAGE


def main(path: Path, device: torch.device, folder: Path) -> None:
    """Load, run, write."""
    # Without a parent to end it, and whatever the machine code is at.
    faulthandler.dump_traceback_later(LIMIT_S, exit=True)
    log.console.quiet = True  # the last line on stderr is to be about what went wrong
    stage, poses = folder / STAGE, {}
    batches = load_file(folder / IMAGES)
    if device.index is not None:
        torch.cuda.set_device(device)
    stage.write_text("when it was loaded")
    locate = load_artifact(path, device).locate
    for name, images in sorted(batches.items()):
        stage.write_text(f"when it was given {len(images)} image{'s' if len(images) > 1 else ''}")
        poses[name] = locate(images).cpu()
    save_file(poses, folder / POSES)
    stage.write_text("when its process ended")


if __name__ == "__main__":
    main(Path(sys.argv[1]), torch.device(sys.argv[2]), Path(sys.argv[3]))
