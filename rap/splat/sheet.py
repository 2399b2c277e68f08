"""Sheets of pictures: photographs beside renderings of the same poses, and titled groups."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import UInt8
from PIL import Image, ImageDraw
from torch import Tensor

from rap import log

_MARGIN_PX = 6
_CAPTION_PX = 14
_PAIRS_PER_ROW = 3
_GROUP_COLUMNS = 6
_TITLE_PX = 22
_PAPER, _INK = (255, 255, 255), (20, 20, 20)


def contact_sheet(
    path: Path,
    photos: UInt8[Tensor, "n 3 h w"],
    renders: UInt8[Tensor, "n 3 h w"],
    captions: Sequence[str],
) -> None:
    """Write a PNG of (photograph, rendering) pairs, three to a row, each under its caption."""
    height, width = photos.shape[-2:]
    columns = min(_PAIRS_PER_ROW, max(len(photos), 1))
    rows = -(-len(photos) // columns)
    cell = (2 * width + 3 * _MARGIN_PX, height + _CAPTION_PX + 2 * _MARGIN_PX)
    sheet = Image.new("RGB", (columns * cell[0], rows * cell[1]), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for index, caption in enumerate(captions):
        left = index % columns * cell[0] + _MARGIN_PX
        top = index // columns * cell[1] + _MARGIN_PX
        draw.text((left, top), caption, fill=_INK)
        sheet.paste(_picture(photos[index]), (left, top + _CAPTION_PX))
        sheet.paste(_picture(renders[index]), (left + width + _MARGIN_PX, top + _CAPTION_PX))
    with log.replacing(path) as temporary:
        sheet.save(temporary, format="PNG")


@dataclass(frozen=True, eq=False)
class Group:
    """Pictures under one title, each with a caption."""

    title: str
    images: UInt8[Tensor, "n 3 h w"]
    captions: Sequence[str]


def grouped_sheet(path: Path, groups: Sequence[Group]) -> None:
    """Write a PNG of groups one below the other, six pictures of one size to a row."""
    height, width = groups[0].images.shape[-2:]
    cell = (width + _MARGIN_PX, height + _CAPTION_PX + _MARGIN_PX)
    columns = min(_GROUP_COLUMNS, max(1, *(len(group.images) for group in groups)))
    rows = [-(-len(group.images) // columns) for group in groups]
    total = sum(rows) * cell[1] + len(groups) * _TITLE_PX + _MARGIN_PX
    sheet = Image.new("RGB", (columns * cell[0] + _MARGIN_PX, total), _PAPER)
    draw = ImageDraw.Draw(sheet)
    top = _MARGIN_PX
    for group, num_rows in zip(groups, rows, strict=True):
        draw.text((_MARGIN_PX, top), group.title, fill=_INK)
        for index, (image, caption) in enumerate(zip(group.images, group.captions, strict=True)):
            left = index % columns * cell[0] + _MARGIN_PX
            above = top + _TITLE_PX + index // columns * cell[1]
            draw.text((left, above), caption, fill=_INK)
            sheet.paste(_picture(image), (left, above + _CAPTION_PX))
        top += _TITLE_PX + num_rows * cell[1]
    with log.replacing(path) as temporary:
        sheet.save(temporary, format="PNG")


def _picture(image: UInt8[Tensor, "3 h w"]) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy())
