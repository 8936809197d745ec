"""What an image consists of, as CycloneDX: Debian's packages and the program's Python packages.

It runs in the image that it describes, when all else is installed.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import os
import platform
import re
import subprocess
import sys
import uuid
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Final

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import License
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from packageurl import PackageURL

#: Longer ones are whole texts, which some packages have in that field.
_LONGEST_LICENSE: Final = 100
_DEBIAN_FIELDS: Final = ("Package", "Version", "Architecture", "source:Package", "source:Version")


def debian_packages() -> Iterator[Component]:
    """Those that dpkg says are installed."""
    wanted = "\\t".join(f"${{{field}}}" for field in ("db:Status-Status", *_DEBIAN_FIELDS))
    listing = subprocess.run(
        ["dpkg-query", "--show", "--showformat", f"{wanted}\\n"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    release = platform.freedesktop_os_release()
    distribution = f"{release['ID']}-{release.get('VERSION_ID', 'sid')}"
    for line in listing.splitlines():
        status, name, version, architecture, source, source_version = line.split("\t")
        if status != "installed":
            continue
        qualifiers = {"arch": architecture, "distro": distribution}
        if (source, source_version) != (name, version):
            qualifiers["upstream"] = f"{source}@{source_version}"
        url = PackageURL("deb", release["ID"], name, version, qualifiers)
        yield Component(
            type=ComponentType.LIBRARY,
            name=name,
            version=version,
            purl=url,
            bom_ref=url.to_string(),
        )


def python_packages(environment: Path, wheels: Path) -> Iterator[Component]:
    """Those of a virtual environment, with the hashes of their wheels."""
    (library,) = environment.glob("lib/python3.*/site-packages")
    for found in distributions(path=[str(library)]):
        name = re.sub(r"[-_.]+", "-", found.name).lower()
        url = PackageURL("pypi", None, name, found.version)
        licence = _licence(found)
        content = _wheel(wheels, name, found.version).read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        yield Component(
            type=ComponentType.APPLICATION if name == "nativelink" else ComponentType.LIBRARY,
            name=name,
            version=found.version,
            purl=url,
            bom_ref=url.to_string(),
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest)],
            licenses=[licence] if licence is not None else [],
        )


def _wheel(wheels: Path, name: str, version: str) -> Path:
    """The file that it was installed from; there may be one of each architecture."""
    prefix = f"{name.replace('-', '_')}-{version}-".lower()
    for path in sorted(wheels.glob("*.whl")):
        stem = path.stem.lower()
        if stem.startswith(prefix) and stem.endswith(("-any", platform.machine())):
            return path
    raise FileNotFoundError(f"{wheels} has no wheel of {name} {version}")


def _licence(found: Distribution) -> License | None:
    text = found.metadata.get("License-Expression") or found.metadata.get("License") or ""
    if not text or len(text) > _LONGEST_LICENSE or "\n" in text:
        return None
    return LicenseFactory().make_from_string(text)


def bill(components: Iterable[Component], name: str) -> Bom:
    """The document: the same for the same components, but for its time."""
    found = sorted(components, key=lambda each: str(each.bom_ref))
    bom = Bom(components=found)
    content = "\n".join(str(each.bom_ref) for each in found)
    bom.serial_number = uuid.uuid5(uuid.NAMESPACE_URL, content)
    bom.metadata.component = Component(type=ComponentType.OPERATING_SYSTEM, name=name, bom_ref=name)
    if epoch := os.environ.get("SOURCE_DATE_EPOCH"):
        bom.metadata.timestamp = datetime.datetime.fromtimestamp(int(epoch), datetime.UTC)
    # Of what each is made is known to the packages' own metadata; all of them are in the image.
    bom.register_dependency(bom.metadata.component, found)
    return bom


def main() -> int:
    """Read the options and write the document."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--environment", type=Path, required=True, help="virtual environment")
    parser.add_argument("--wheels", type=Path, required=True, help="what it was installed from")
    parser.add_argument("--output", type=Path, required=True)
    told = parser.parse_args()
    components = [*debian_packages(), *python_packages(told.environment, told.wheels)]
    bom = bill(components, "nativelink-image")
    outputter = make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6)
    told.output.write_text(outputter.output_as_string(indent=2) + "\n", encoding="utf-8")
    print(f"{told.output}: {len(components)} packages", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
