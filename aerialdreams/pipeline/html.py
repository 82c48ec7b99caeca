"""HTML pages from the templates in `templates/`: self-contained, escaped by default."""

import base64
import hashlib
import io
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

JPEG_QUALITY = 88
ENVIRONMENT = Environment(
    loader=PackageLoader("aerialdreams.pipeline"),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    undefined=StrictUndefined,
)


@dataclass(frozen=True)
class Figure:
    """Images side by side with a caption, for the macro `draw`.

    Attributes:
        images: pairs of a name and a data URL; may be empty.
        caption: text below the images.
    """

    images: list[tuple[str, str]]
    caption: str


def render(template: str, **values: Any) -> str:
    """Render a page.

    Args:
        template: a file name in `templates/`, such as "report.html".
        values: the template's variables; strings are escaped.

    Returns:
        The page, with the stylesheet inlined. The same values give the same text.

    Raises:
        jinja2.UndefinedError: the template uses a variable that `values` lacks.
    """
    return ENVIRONMENT.get_template(template).render(values)


def page_script(name: str) -> dict[str, Any]:
    """Values of a template for its one script, which the page's policy then allows by its hash.

    Args:
        name: a file name in `templates/`, such as "samples.js".
    """
    source = ENVIRONMENT.loader.get_source(ENVIRONMENT, name)[0] if ENVIRONMENT.loader else ""
    digest = hashlib.sha256(source.encode()).digest()
    return {"script": Markup(source), "script_hash": base64.b64encode(digest).decode()}


def data_url(image: NDArray[np.uint8] | bytes, kind: Literal["png", "jpeg"] = "png") -> str:
    """An image as a data URL, for the `src` of an `<img>`.

    Args:
        image: RGB, 0 to 255, (height, width, 3), or encoded.
        kind: its encoding; a photograph takes a fifth of the bytes as JPEG.
    """
    if not isinstance(image, bytes):
        file = io.BytesIO()
        Image.fromarray(image).save(file, kind, quality=JPEG_QUALITY)  # PNG has no quality
        image = file.getvalue()
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"
