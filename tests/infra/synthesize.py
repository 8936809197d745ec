"""Run with the Python of `.tools/infra`: every example as on AWS, and as on a laptop.

`synthesize.py DIRECTORY ENDPOINT [NAME]` writes DIRECTORY/aws/EXAMPLE and DIRECTORY/local/EXAMPLE,
of the latter only NAME if there is one, each with stacks/NAME/cdk.tf.json, and
DIRECTORY/stacks.json: {"aws/EXAMPLE": path}. One process, because loading the constructs takes
most of the time.
"""

import json
import sys
from pathlib import Path

from infra.kit import Kit
from infra.local import LocalProfile
from infra.main import synthesize
from infra.settings import RegionSettings
from infra.settings_load import load

EXAMPLES = Path(__file__).parents[2] / "infra" / "examples"


def settings_of(example: str) -> RegionSettings:
    """An example that builds its images of a bundle which nobody makes.

    The image's version is the bundle's digest, and the checkout's may be made while tests run.
    """
    settings = load(EXAMPLES / f"{example}.yaml")
    image = settings.image.model_copy(update={"bundle": "dist/of-nobody.tar.gz"})
    return settings.model_copy(update={"image": image})


def main(directory: Path, endpoint: str, only: str = "") -> None:
    found: dict[str, str] = {}
    laptop = LocalProfile(endpoint=endpoint)

    def places(name: str) -> dict[str, LocalProfile | None]:
        return {"aws": None} | ({"local": laptop} if only in ("", name) else {})

    for example in sorted(EXAMPLES.glob("*.yaml")):
        settings = settings_of(example.stem)
        for place, local in places(example.stem).items():
            outdir = directory / place / example.stem
            name = synthesize(Kit(settings, local), "region", outdir)
            found[f"{place}/{example.stem}"] = str(outdir / "stacks" / name)
    for place, local in places("bootstrap").items():
        # As somebody makes it who tries a region first.
        settings = settings_of("team").model_copy(update={"destroyable": True})
        kit = Kit(settings, local)
        outdir = directory / place / "bootstrap"
        name = synthesize(kit, "bootstrap", outdir)
        found[f"{place}/bootstrap"] = str(outdir / "stacks" / name)
    partial = directory / "stacks.partial"
    partial.write_text(json.dumps(found), encoding="utf-8")
    partial.rename(directory / "stacks.json")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
