"""Prints what this machine's Python and Debian have installed, as CycloneDX 1.6 in JSON.

It is run by an image's own Python, in the image: `python3 - NAME VERSION ARCH < sbom.py`. The same
image gives the same bytes.
"""

import importlib.metadata as metadata
import json
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

FIELDS = "${Package}\t${Version}\t${Architecture}\t${source:Package}\n"


def name_of(distribution: metadata.Distribution) -> str:
    """Return the name as the index spells it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", str(distribution.metadata["Name"])).lower()


def pypi_ref(name: str, version: str) -> str:
    return f"pkg:pypi/{quote(name)}@{quote(version)}"


def licences_of(distribution: metadata.Distribution) -> list[dict[str, object]]:
    """Return what it says of its licence: an expression of SPDX, else a name."""
    if expression := distribution.metadata.get("License-Expression"):
        return [{"expression": str(expression)}]
    classified = distribution.metadata.get_all("Classifier") or ()
    names = [str(one).split(" :: ")[-1] for one in classified if str(one).startswith("License ::")]
    told = str(distribution.metadata.get("License") or "").strip().splitlines()
    return [{"license": {"name": name}} for name in sorted(set(names or told[:1]))]


def python_components(found: list[metadata.Distribution]) -> list[dict[str, object]]:
    components = []
    for one in found:
        ref = pypi_ref(name_of(one), one.version)
        component: dict[str, object] = {
            "type": "library",
            "bom-ref": ref,
            "name": name_of(one),
            "version": one.version,
            "purl": ref,
        }
        if licences := licences_of(one):
            component["licenses"] = licences
        components.append(component)
    return components


def dependencies(found: list[metadata.Distribution]) -> list[dict[str, object]]:
    """Return which distribution asks for which, as far as they are there."""
    refs = {name_of(one): pypi_ref(name_of(one), one.version) for one in found}
    told = []
    for one in found:
        wanted = (re.split(r"[^A-Za-z0-9._-]", text, maxsplit=1)[0] for text in one.requires or ())
        names = {re.sub(r"[-_.]+", "-", text).lower() for text in wanted}
        needs = sorted(refs[name] for name in names if name in refs and name != name_of(one))
        told.append({"ref": refs[name_of(one)], "dependsOn": needs})
    return told


def debian_components(release: str) -> list[dict[str, object]]:
    command = ["dpkg-query", "--show", f"--showformat={FIELDS}"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    components = []
    for line in sorted(said.splitlines()):
        name, version, arch, source = line.split("\t")
        qualifiers = f"arch={arch}&distro={release}"
        purl = f"pkg:deb/debian/{quote(name)}@{quote(version, safe='')}?{qualifiers}"
        components.append(
            {
                "type": "library",
                "bom-ref": purl,
                "name": name,
                "version": version,
                "purl": purl,
                "properties": [{"name": "debian:source", "value": source or name}],
            }
        )
    return components


def release_of() -> tuple[str, str]:
    told = Path("/etc/os-release").read_text().splitlines()
    lines = dict(line.split("=", 1) for line in told if "=" in line)
    return lines["ID"].strip('"'), lines["VERSION_ID"].strip('"')


def main(name: str, version: str, arch: str) -> None:
    found = sorted(metadata.distributions(), key=name_of)
    system, release = release_of()
    ref = f"pkg:oci/{name}?arch={arch}&tag={version}"
    document = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "container",
                "bom-ref": ref,
                "name": name,
                "version": version,
                "purl": ref,
            }
        },
        "components": [
            {"type": "operating-system", "bom-ref": system, "name": system, "version": release},
            *python_components(found),
            *debian_components(f"{system}-{release}"),
        ],
        "dependencies": dependencies(found),
    }
    json.dump(document, sys.stdout, indent=1, ensure_ascii=False)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
