"""The `aerialdreams` command."""

import argparse
import sys
from pathlib import Path

from aerialdreams.errors import DONE, FAILED, INTERRUPTED, USER_ERROR, UserError, WorkError

EXAMPLES = """\
examples:
  aerialdreams generate mask.tif --prompt "Aerial view of Brest. water, building."
  aerialdreams generate mask.png --pixel 0.2 --seed 7 --output street.png
  aerialdreams generate mask.tif --prompt "Oil on canvas painting." --guidance 5

The mask holds class ids (1 to 19, one band or a paletted PNG) or FLAIR's colours (three bands), at
any size; larger ones are painted in tiles that blend. A GeoTIFF's image lies on the same ground.
Exit codes: 0 done, 1 the work failed, 2 the mask or a model is wrong, 3 interrupted."""


def main(words: list[str] | None = None) -> None:
    """Run the command, and exit with its code."""
    parser = argparse.ArgumentParser(prog="aerialdreams", description=__doc__)
    commands = parser.add_subparsers(required=True)
    generate = commands.add_parser(
        "generate",
        help="paint a land-cover mask as an aerial photograph",
        description="Paint a land-cover mask as an aerial photograph.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    generate.add_argument("mask", type=Path, help="GeoTIFF, VRT or PNG")
    generate.add_argument("--prompt", default="Aerial view of France.", help="what it shows")
    generate.add_argument("--negative-prompt", default="", help="not wanted; with guidance above 1")
    generate.add_argument("--output", type=Path, help=".tif or .png; MASK-photograph otherwise")
    generate.add_argument("--seed", type=int, default=0, help="another gives another image")
    generate.add_argument("--steps", type=int, help="denoising steps; default: the model's")
    generate.add_argument(
        "--guidance", type=float, help="classifier-free guidance scale; 1 turns it off"
    )
    generate.add_argument(
        "--conditioning-scale", type=float, help="how closely the mask is followed"
    )
    generate.add_argument("--sampler", choices=["ddim", "dpm++", "unipc"])
    generate.add_argument("--pixel", type=float, help="metres a pixel, where the mask does not say")
    generate.add_argument(
        "--off-palette", type=float, default=0.01, help="share of other colours that is taken"
    )
    generate.add_argument("--controlnet", type=Path, default=Path("models/controlnet"))
    generate.add_argument("--base", type=Path, default=Path("models/base"))
    generate.set_defaults(run=run_generate)
    against = commands.add_parser(
        "compare",
        help="lay experiments side by side: params, measures, images, and is the difference real?",
        description="Lay experiments side by side, the first one as what others are compared with.",
        epilog="example:\n  aerialdreams compare HEAD~1 workspace --page comparison.html",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    against.add_argument(
        "experiments",
        nargs="+",
        help="git revisions, names of `dvc exp`, workspace, or run:ID of MLflow; two or more",
    )
    against.add_argument("--page", type=Path, help="HTML page with images of the same masks")
    against.set_defaults(run=run_compare)
    put = commands.add_parser(
        "settings",
        help="put settings, such as flair, sd21 and gpu, into params.yaml",
        description="Put settings into params.yaml; without a name, list them. `git diff` shows"
        " what changed, `git checkout params.yaml` takes it back.",
        epilog="example:\n  aerialdreams settings flair sd21 gpu",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    put.add_argument("names", nargs="*", help="of files in settings/, the later one holds")
    put.set_defaults(run=run_settings)
    look = commands.add_parser(
        "check-remote",
        help="read what lies in DVC's remote, and name what is missing or damaged",
        description="Read the objects of outputs in DVC's remote and compare them with dvc.lock.",
    )
    look.add_argument("outputs", nargs="*", help="such as data/dataset; all that are pushed")
    look.set_defaults(run=run_check_remote)
    outward = commands.add_parser(
        "publish",
        help="push the dataset or the ControlNet to the Hugging Face hub, licences checked",
        description="Push data/dataset or models/controlnet to the Hugging Face hub. The token is"
        " HF_TOKEN's, or that of `hf auth login`.",
        epilog="examples:\n  aerialdreams publish dataset me/flair-captioned --dry-run\n"
        "  aerialdreams publish controlnet me/flair-controlnet --private --revision v1",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    outward.add_argument("what", choices=["dataset", "controlnet"])
    outward.add_argument("repo", help="its name on the hub, OWNER/NAME")
    outward.add_argument("--private", action="store_true", help="for you alone, where it is new")
    outward.add_argument("--revision", default="main", help="branch (main)")
    outward.add_argument("--dry-run", action="store_true", help="say what would leave, and stop")
    outward.set_defaults(run=run_publish)
    given = parser.parse_args(words)
    try:
        print(given.run(given))
    except UserError as error:
        sys.exit(_fail(str(error), USER_ERROR))
    except WorkError as error:
        sys.exit(_fail(str(error), FAILED))
    except OSError as error:
        sys.exit(_fail(f"{error.filename}: {error.strerror}", FAILED))
    except KeyboardInterrupt:
        sys.exit(_fail("interrupted", INTERRUPTED))
    sys.exit(DONE)


def _fail(message: str, code: int) -> int:
    print(f"aerialdreams: error: {message}", file=sys.stderr, flush=True)
    return code


def run_check_remote(given: argparse.Namespace) -> str:
    """`aerialdreams check-remote`; gives what is there.

    Raises:
        UserError: an output is unknown, or there is no remote.
        WorkError: objects are missing or damaged.
    """
    from aerialdreams.pipeline.remote import check_remote

    return check_remote(given.outputs)


def run_publish(given: argparse.Namespace) -> str:
    """`aerialdreams publish`; gives what left.

    Raises:
        UserError: licence, credits or files are missing, or the hub does not take the token.
    """
    from aerialdreams.pipeline.publish import publish

    return publish(given.what, given.repo, given.private, given.revision, given.dry_run)


def run_settings(given: argparse.Namespace) -> str:
    """`aerialdreams settings`; gives what changed, or what there is.

    Raises:
        UserError: a name or a key is unknown, or the params that come out are wrong.
    """
    from aerialdreams.pipeline.settings import SETTINGS, names, put

    if given.names:
        return "\n".join(put(given.names)) or "params.yaml has them already"
    heads = ((name, (SETTINGS / f"{name}.yaml").read_text().splitlines()[0]) for name in names())
    return "\n".join(f"{name:8} {head.lstrip('# ')}" for name, head in heads)


def run_compare(given: argparse.Namespace) -> str:
    """`aerialdreams compare`; gives the tables.

    Raises:
        UserError: an experiment cannot be read, or there is but one.
    """
    import os

    os.environ.setdefault("DVC_NO_ANALYTICS", "1")
    from aerialdreams.pipeline.comparison import compare

    if len(given.experiments) < 2:
        raise UserError("name two experiments at least; `dvc exp show` and `git log` list them")
    return compare(given.experiments, given.page)


def run_generate(given: argparse.Namespace) -> str:
    """`aerialdreams generate`; gives what it did, in numbers.

    Raises:
        UserError: the mask, a model or the output's name is wrong.
    """
    from aerialdreams.data.credits import IGN_CREDIT
    from aerialdreams.data.images import write_image
    from aerialdreams.data.mask_files import GEOTIFF, read_user_mask, resample_mask
    from aerialdreams.data.rasters import write_geotiff
    from aerialdreams.models.model_info import ModelInfo
    from aerialdreams.util.files import dvc_md5

    info = ModelInfo.load(given.controlnet)
    own = read_user_mask(given.mask, list(info.conditioning.classes), given.off_palette)
    if own.off_palette:
        print(f"{given.mask}: {own.off_palette:.2%} of its pixels were taken for the nearest class")
    if own.placed and not own.placed.crs:
        print(f"{given.mask}: has no CRS; neither will the photograph", file=sys.stderr)
    pixel = own.placed.transform.a if own.placed else given.pixel or info.pixel_size
    own = resample_mask(own, info.pixel_size, pixel)
    suffix = ".tif" if own.placed else ".png"
    output = given.output or given.mask.with_name(f"{given.mask.stem}-photograph{suffix}")
    geotiff = output.suffix.lower() in GEOTIFF[:2]
    if output.suffix.lower() != ".png" and not (geotiff and own.placed):
        raise UserError(
            f"--output: {output}: must end in .png" + (" or .tif" if own.placed else "")
        )

    from aerialdreams.generation.painter import Painter

    image = Painter(given.controlnet, given.base).paint(
        own.ids,
        given.prompt,
        seed=given.seed,
        steps=given.steps,
        guidance=given.guidance,
        conditioning_scale=given.conditioning_scale,
        negative_prompt=given.negative_prompt,
        sampler=given.sampler,
    )
    if geotiff and own.placed:
        tags = {
            "SYNTHETIC": "YES",
            "TIFFTAG_IMAGEDESCRIPTION": "Synthetic: made by AerialDreams, shows no real place",
            "PROMPT": given.prompt,
            "SEED": str(given.seed),
            "CONTROLNET_MD5": dvc_md5(given.controlnet),
            "CREDITS": f"Model trained on {IGN_CREDIT}",
        }
        write_geotiff(output, image, own.placed, tags)
    else:
        write_image(output, image)
    return (
        f"{output}: {image.shape[1]} x {image.shape[0]} pixels of {info.pixel_size:.2f} m painted"
    )


if __name__ == "__main__":
    main()
