"""Write the bill of materials of an image that `gather.py` gathered, as CycloneDX 1.6: sbom.py VARIANT IMAGE.

Each component says where in the image it lies, as occurrences: a path that ends in a slash stands for all that is in
it, and of two that fit, the longer counts. So every file of the image belongs to one component.
"""

from __future__ import annotations

import json
import os
import sys
import uuid
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.component_evidence import ComponentEvidence, Occurrence
from cyclonedx.model.license import License
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from packageurl import PackageURL

PLACE = Path("usr/share/standpipe/sbom.cdx.json")
EPOCH = int(os.environ.get("SOURCE_DATE_EPOCH") or 0)
MODELS: Mapping[str, Mapping[str, Any]] = {
    "all-MiniLM-L6-v2": {
        "type": ComponentType.MACHINE_LEARNING_MODEL,
        "licence": "Apache-2.0",
        "purl": PackageURL("huggingface", "sentence-transformers", "all-MiniLM-L6-v2"),
        "description": "The embedding model; its graph is built by `standpipe model fetch`.",
    },
    "tokenizers": {
        "type": ComponentType.DATA,
        "licence": "MIT",
        "purl": PackageURL("generic", "openai", "tiktoken-encodings"),
        "description": "The ranks of the tokenizers o200k_base and cl100k_base, as tiktoken publishes them.",
    },
}
"""What is known of the models that are no packages; a model without an entry stops the build."""

_licences = LicenseFactory()


def component(key: str, about: Mapping[str, Any]) -> Component:
    """Describe one component, with its licences and its places."""
    kind, name, version = about["kind"], about.get("name", "standpipe"), about.get("version")
    described: dict[str, Any] = {"type": ComponentType.LIBRARY, "purl": None, "licences": _named(about)}
    if kind == "model":
        known = MODELS[name]
        described |= {name: known[name] for name in ("type", "purl", "description")}
        described["licences"] = [_licences.make_from_string(known["licence"])]
        version = next(iter(about["hashes"].values()))[:12] if version is None else version
    elif kind == "deb":
        distro = {"arch": about["architecture"], "distro": "debian"}
        described["purl"] = PackageURL("deb", "debian", name, version, distro)
    elif kind == "generic":
        described["purl"] = PackageURL("generic", None, name, version)
    else:
        described["purl"] = PackageURL("pypi", None, name.lower().replace("_", "-"), version)
    if kind == "standpipe":
        described |= {"type": ComponentType.APPLICATION, "licences": [_licences.make_from_string("Apache-2.0")]}
    occurrences = [Occurrence(location=place) for place in about["places"]]
    return Component(
        name=name,
        version=version,
        bom_ref=key,
        type=described["type"],
        purl=described["purl"],
        description=described.get("description"),
        licenses=described["licences"],
        evidence=ComponentEvidence(occurrences=occurrences),
        components=[_file(place, sha256) for place, sha256 in sorted(about.get("hashes", {}).items())],
    )


def _named(about: Mapping[str, Any]) -> Iterable[License]:
    if about.get("licence"):
        return [_licences.make_from_string(about["licence"])]
    return [_licences.make_with_name(name) for name in about.get("licences", ())]


def _file(place: str, sha256: str) -> Component:
    return Component(
        name=f"/{place}",
        bom_ref=f"file:/{place}",
        type=ComponentType.FILE,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=sha256)],
    )


def main(variant: str, image: Path) -> None:
    """Write the bill into the image."""
    components = json.loads((image / "components.json").read_text())
    standpipe = components["standpipe"]
    described = [component(key, about) for key, about in components.items()]
    whole = Component(
        name=f"standpipe-{variant}",
        version=standpipe["version"],
        type=ComponentType.CONTAINER,
        bom_ref="image",
        description="The context sidecar for LLM inference pods, as an image.",
        licenses=[_licences.make_from_string("Apache-2.0")],
    )
    bom = Bom(
        components=described,
        # One build of the same is told from another by nothing.
        serial_number=uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(components, sort_keys=True)),
        metadata=BomMetaData(component=whole, timestamp=datetime.fromtimestamp(EPOCH, UTC)),
    )
    bom.register_dependency(whole, described)
    place = image / "standpipe" / PLACE
    written = json.loads(make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string())
    # The library writes them in no order; a build that is done again is to be the same.
    for each in written["components"]:
        each["evidence"]["occurrences"].sort(key=lambda occurrence: occurrence["location"])
    before = place.stat()
    place.write_text(json.dumps(written, indent=1, sort_keys=True) + "\n")
    os.utime(place, (before.st_atime, before.st_mtime))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
