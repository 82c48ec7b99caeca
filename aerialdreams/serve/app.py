"""The HTTP API and the page; /openapi.json describes the API."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, ValidationError

from aerialdreams.data.dataset import count_patches, patch_names, read_patches, splits_of
from aerialdreams.errors import UserError
from aerialdreams.serve.grounds import (
    MAX_PIXELS,
    MAX_UPLOAD,
    Ground,
    Grounds,
    encode_mask,
    ground_of_patch,
    ground_of_upload,
)
from aerialdreams.serve.guard import guard_requests
from aerialdreams.serve.jobs import FullError, Job, JobQueue
from aerialdreams.serve.recipes import MAX_SIDE, PatchChoice, Place, Recipe, Shares, Size
from aerialdreams.serve.studio import Studio, encode_png

STATIC = Path(__file__).parent / "static"
EVENT_SECONDS = 0.25  # between progress events
Model = TypeVar("Model", bound=BaseModel)


def create_app(
    studio: Studio, folder: Path, dataset: Path, hosts: set[str], token: str = ""
) -> FastAPI:
    """The application.

    Args:
        studio: the model.
        folder: an empty one for the jobs' files.
        dataset: of which validation and test patches can be loaded; it may be missing.
        hosts: host names that requests may be for, so that other sites' pages cannot reach a local
            server under a name of their own.
        token: that clients must send; "" for none.
    """
    jobs, grounds = JobQueue(folder), Grounds()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        jobs.close()

    app = FastAPI(
        title="AerialDreams",
        version=version("aerialdreams"),
        description="Aerial images from land-cover masks. All images are synthetic.",
        lifespan=lifespan,
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
    )
    app.middleware("http")(guard_requests(hosts, token))

    @app.exception_handler(UserError)
    async def explain(request: Request, error: UserError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 422)

    @app.get("/api/model")
    def model() -> dict[str, Any]:
        """Classes, sizes, limits and default sampling settings."""
        info = studio.info
        return {
            "classes": [
                {"id": row.id, "name": row.name, "colour": row.colour}
                for row in info.conditioning.classes
            ],
            "image_size": info.image_size,
            "pixel_size": info.pixel_size,
            "sampling": vars(info.sampling),
            "credit": info.credit,
            "model": studio.model_md5,
            "max_side": MAX_SIDE,
            "max_pixels": MAX_PIXELS,
            "max_upload": MAX_UPLOAD,
        }

    @app.get("/api/patches")
    def patches() -> list[dict[str, Any]]:
        """Validation and test patches of the dataset."""
        if not (dataset / "data").is_dir():
            return []
        return [
            {"split": split, "row": row, "name": name}
            for split in splits_of(dataset)
            if split != "train"
            for row, name in enumerate(patch_names(split, dataset))
        ]

    @app.post("/api/grounds/patch")
    async def load_patch(request: Request) -> dict[str, Any]:
        """Load a patch as a ground to draw on. Body: PatchChoice."""
        choice = await _parse(request, PatchChoice)
        if choice.split not in splits_of(dataset) or choice.row >= count_patches(
            choice.split, dataset
        ):
            raise HTTPException(404, "no such patch")
        patch = next(iter(read_patches(choice.split, [choice.row], dataset)))
        return _describe(grounds, ground_of_patch(patch, studio.info))

    @app.post("/api/grounds/file")
    async def load_file(
        request: Request,
        name: Annotated[str, Query(max_length=200)] = "upload",
        mapping: Literal["osm", "cosia"] = "cosia",
    ) -> dict[str, Any]:
        """Load a PNG, GeoTIFF, GeoPackage, ... as a ground. Body: the file."""
        content = await _read(request, MAX_UPLOAD)
        shown = "".join(letter for letter in name if letter.isprintable()) or "upload"
        ground = await asyncio.to_thread(ground_of_upload, content, shown, studio.info, mapping)
        return _describe(grounds, ground)

    @app.get("/api/grounds/{ground_id}/photograph.png")
    def photograph(ground_id: str) -> Response:
        """The real photograph of a patch."""
        ground = grounds.get(ground_id)
        if ground is None or ground.photograph is None:
            raise HTTPException(404, "no such photograph")
        return Response(encode_png(ground.photograph), media_type="image/png")

    @app.post("/api/caption")
    async def caption(request: Request) -> dict[str, str]:
        """A caption for a mask's classes, in the training captions' form. Body: Shares."""
        asked = await _parse(request, Shares)
        names = [row.name for row in studio.info.conditioning.classes]
        shares = {name: max(0.0, asked.shares.get(name, 0.0)) for name in names}
        ground = grounds.get(asked.ground or "")
        form = studio.info.captions
        if ground and ground.class_text:
            text = ", ".join(form.classes(shares))
            return {"caption": ground.caption.replace(ground.class_text, text)}
        return {"caption": form.caption(shares)}

    @app.post("/api/estimate")
    async def estimate(request: Request) -> dict[str, float]:
        """Seconds that images will take, without the jobs before them. Body: Size."""
        size = await _parse(request, Size)
        one = studio.estimate(size.width, size.height, size.steps, size.guidance)
        return {"seconds": one * size.variations}

    @app.post("/api/jobs", status_code=202)
    async def submit(request: Request) -> dict[str, Any]:
        """Ask for images. Body: Recipe."""
        recipe = await _parse(request, Recipe)
        if recipe.width * recipe.height > MAX_PIXELS:
            raise UserError(f"width, height: more than {MAX_PIXELS} pixels")
        work = studio.run(recipe)
        try:
            job = jobs.submit(work)
        except FullError:
            raise HTTPException(429, "too many jobs are waiting; try again later") from None
        return _state(jobs, job)

    def find(job_id: str) -> Job:
        job = jobs.get(job_id)
        if job is None:
            raise HTTPException(404, "no such job; only the last ones are kept")
        return job

    @app.get("/api/jobs/{job_id}")
    def state(job_id: str) -> dict[str, Any]:
        """Status and progress of a job."""
        return _state(jobs, find(job_id))

    @app.delete("/api/jobs/{job_id}")
    def cancel(job_id: str) -> dict[str, Any]:
        """Cancel a job."""
        job = find(job_id)
        jobs.cancel(job)
        return _state(jobs, job)

    @app.get("/api/jobs/{job_id}/events")
    def events(job_id: str) -> StreamingResponse:
        """Progress of a job as server-sent events, until it is over."""
        job = find(job_id)

        async def stream() -> AsyncIterator[str]:
            last = ""
            while True:
                over, text = job.is_over, json.dumps(_state(jobs, job))
                if text != last:
                    yield f"data: {text}\n\n"
                    last = text
                if over:
                    return
                await asyncio.sleep(EVENT_SECONDS)

        return StreamingResponse(stream(), media_type="text/event-stream")

    def result(job_id: str, name: str) -> FileResponse:
        path = find(job_id).folder / name
        if not path.is_file():
            raise HTTPException(404, "no such file")
        return FileResponse(path)

    @app.get("/api/jobs/{job_id}/images/{number}.png")
    def image(job_id: str, number: int) -> FileResponse:
        """An image, numbered from 1."""
        return result(job_id, f"{number}.png")

    @app.get("/api/jobs/{job_id}/judge/{number}.png")
    def judge(job_id: str, number: int) -> FileResponse:
        """What the judge sees in an image, in the classes' colours."""
        return result(job_id, f"judge-{number}.png")

    @app.get("/api/jobs/{job_id}/recipe.json")
    def recipe(job_id: str) -> FileResponse:
        """The recipe, which makes the same images again."""
        return result(job_id, "recipe.json")

    @app.get("/api/jobs/{job_id}/result.zip")
    def archive(job_id: str) -> FileResponse:
        """Images, masks and recipe; GeoTIFFs where the ground has a georeference."""
        return result(job_id, "result.zip")

    app.mount("/", StaticFiles(directory=STATIC, html=True))
    return app


async def _read(request: Request, limit: int) -> bytes:
    """A request's body.

    Raises:
        HTTPException: it is larger than the limit.
    """
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise HTTPException(413, f"more than {limit} bytes")
        parts.append(part)
    return b"".join(parts)


async def _parse(request: Request, model: type[Model]) -> Model:
    """A request's JSON.

    Raises:
        UserError: it is not valid; the message names the key.
    """
    try:
        return model.model_validate_json(await _read(request, MAX_UPLOAD))
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        key = ".".join(map(str, problem["loc"])) or "body"
        raise UserError(f"{key}: {problem['msg']}") from None


def _describe(grounds: Grounds, ground: Ground) -> dict[str, Any]:
    height, width = ground.mask.shape
    return {
        "id": grounds.add(ground),
        "name": ground.name,
        "width": width,
        "height": height,
        "mask": encode_mask(ground.mask),
        "caption": ground.caption,
        "has_photograph": ground.photograph is not None,
        "place": Place.of(ground.reference).model_dump() if ground.reference else None,
        "notes": list(ground.notes),
    }


def _state(jobs: JobQueue, job: Job) -> dict[str, Any]:
    return {
        "id": job.id,
        "status": job.status,
        "done": job.done,
        "steps": job.steps,
        "ahead": jobs.ahead_of(job) if job.status == "waiting" else 0,
        "error": job.error,
        "seconds": round(job.seconds, 2),
        **job.result,
    }
