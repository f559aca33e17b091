#!/usr/bin/env python3
"""The software bill of materials (CycloneDX 1.6, JSON) of what is compiled into the program.

    deploy/release/sbom.py [--target TRIPLE] > doorward.cdx.json

Read from `cargo metadata` and Cargo.lock, so it names exactly what `cargo build --locked` takes:
every crate that is linked or runs at build time, with licence, checksum and what depends on what.
Tests' crates are left out. The same commit gives the same bytes: the serial number follows from
the content, and the time is SOURCE_DATE_EPOCH or that of the commit. Needs Python 3.11 and cargo,
and no network once the crates are there.
"""

import argparse
import datetime
import hashlib
import json
import os
import pathlib
import subprocess
import sys
import tomllib
import uuid

ROOT = pathlib.Path(__file__).resolve().parents[2]
REGISTRY = "registry+https://github.com/rust-lang/crates.io-index"


def cargo_metadata(target):
    command = [os.environ.get("CARGO", "cargo"), "metadata", "--locked", "--format-version", "1"]
    if target:
        command += ["--filter-platform", target]
    return json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)


def moment():
    """SOURCE_DATE_EPOCH, else the time of the commit, else none."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    if not epoch:
        command = ["git", "-c", "safe.directory=*", "log", "-1", "--format=%ct"]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        epoch = done.stdout.decode().strip()
    if not epoch:
        return None
    return datetime.datetime.fromtimestamp(int(epoch), datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def expression(licence):
    """Cargo's older `A/B` is SPDX's `A OR B`."""
    return " OR ".join(part.strip() for part in licence.split("/"))


def purl(package):
    return f"pkg:cargo/{package['name']}@{package['version']}"


def component(package, checksums):
    made = {
        "type": "library",
        "bom-ref": purl(package),
        "name": package["name"],
        "version": package["version"],
        "purl": purl(package),
        "scope": "required",
        "licenses": [{"expression": expression(package["license"])}],
    }
    if package.get("description"):
        made["description"] = " ".join(package["description"].split())
    checksum = checksums.get((package["name"], package["version"]))
    if checksum:
        made["hashes"] = [{"alg": "SHA-256", "content": checksum}]
    if package.get("repository"):
        made["externalReferences"] = [{"type": "vcs", "url": package["repository"]}]
    return made


def compiled(metadata):
    """What the root reaches by normal and build dependencies, and those edges."""
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    edges, waiting = {}, [metadata["resolve"]["root"]]
    while waiting:
        one = waiting.pop()
        if one in edges:
            continue
        wanted = [
            edge["pkg"] for edge in nodes[one]["deps"] if any(kind["kind"] != "dev" for kind in edge["dep_kinds"])
        ]
        edges[one] = wanted
        waiting += wanted
    return edges


def bill(target):
    metadata = cargo_metadata(target)
    packages = {package["id"]: package for package in metadata["packages"]}
    lock = tomllib.loads((ROOT / "Cargo.lock").read_text())
    checksums = {(entry["name"], entry["version"]): entry.get("checksum") for entry in lock["package"]}
    edges = compiled(metadata)
    root = packages[metadata["resolve"]["root"]]
    others = sorted((packages[one] for one in edges if one != root["id"]), key=lambda p: (p["name"], p["version"]))
    for package in others:
        if package["source"] != REGISTRY:
            sys.exit(f"sbom: {package['name']} {package['version']} is not from crates.io: {package['source']}")
        if not package["license"]:
            sys.exit(f"sbom: {package['name']} {package['version']} says no licence")
    program = component(root, {}) | {"type": "application"}
    program.pop("scope")
    components = [component(package, checksums) for package in others]
    dependencies = [
        {"ref": purl(packages[one]), "dependsOn": sorted({purl(packages[other]) for other in wanted})}
        for one, wanted in sorted(edges.items(), key=lambda edge: purl(packages[edge[0]]))
    ]
    content = json.dumps([program, components, dependencies], sort_keys=True).encode()
    serial = uuid.UUID(bytes=hashlib.sha256(content).digest()[:16], version=4)
    about = {
        "component": program,
        "tools": {"components": [{"type": "application", "name": "deploy/release/sbom.py"}]},
        "lifecycles": [{"phase": "build"}],
    }
    made_at = moment()
    if made_at:
        about["timestamp"] = made_at
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
        "metadata": about,
        "components": components,
        "dependencies": dependencies,
    }


def main():
    reader = argparse.ArgumentParser(description="The bill of materials of the program, CycloneDX 1.6.")
    reader.add_argument("--target", help="the platform, such as x86_64-unknown-linux-gnu [default: all]")
    json.dump(bill(reader.parse_args().target), sys.stdout, indent=2, sort_keys=True, ensure_ascii=False)
    sys.stdout.write("\n")


main()
