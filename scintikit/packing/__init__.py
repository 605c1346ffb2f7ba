"""Packages of bundles: zips that run alone, the checks they must pass, and reading them without trust."""

from scintikit.packing.manifest import check_hashes
from scintikit.packing.pack import pack_bundle
from scintikit.packing.verify import Result, passed, to_json, verify_bundle

__all__ = ["Result", "check_hashes", "pack_bundle", "passed", "to_json", "verify_bundle"]
