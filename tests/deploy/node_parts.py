"""A node in a temporary folder, studies to send to it, and an application that costs next to nothing."""

import contextlib
import os
import shutil
import socket
import sqlite3
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from deploy.orthanc.archive import Archive, ArchiveAway
from deploy.orthanc.ledger import Ledger
from deploy.orthanc.server import Node
from deploy.orthanc.watcher import Settings, Watcher
from scintikit.dicom import write_scintigram

BASIC_TEXT_SR = "1.2.840.10008.5.1.4.1.1.88.11"
NAME = "Nobody^Secret"
INSTALLED = shutil.which("Orthanc", path="/usr/sbin:/usr/bin") is not None
SECRETS = (NAME, "ID-4711", "19610203")


@dataclass
class CheapOutcome:
    status: str
    files: list
    reasons: list


def application(models):
    """What `--application node_parts:application` names."""
    return run_cheaply


def run_cheaply(files, output):
    """Write an SR and an SC whose UIDs depend on the source; the description of the study can ask for trouble."""
    source = pydicom.dcmread(files[0])
    description = source.get("StudyDescription", "")
    if description == "crash":
        os._exit(1)
    if description == "fail":
        raise RuntimeError(f"cannot stand {source.PatientName}")
    if description.startswith("unsuitable"):
        return CheapOutcome("unsuitable", [], [f"the description is {description!r}"])
    uids = "".join(sorted(pydicom.dcmread(file, specific_tags=["SOPInstanceUID"]).SOPInstanceUID for file in files))
    output.mkdir()
    if description == "wait":
        wait_for((output / "go").exists, 60)
    report, picture = (_result(source, uids, kind) for kind in ("SR", "OT"))
    pixels = np.random.default_rng(0).integers(0, 255, (32, 64, 3), dtype=np.uint8)
    picture.set_pixel_data(pixels, "RGB", 8, generate_instance_uid=False)
    paths = [output / "report.dcm", output / "picture.dcm"]
    for path, result in zip(paths, (report, picture), strict=True):
        result.save_as(path, enforce_file_format=True)
    return CheapOutcome("done", paths, ["goiter"])


def _result(source, uids, modality):
    result = Dataset()
    result.file_meta = FileMetaDataset()
    result.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    result.SOPClassUID = BASIC_TEXT_SR if modality == "SR" else SecondaryCaptureImageStorage
    result.SOPInstanceUID = generate_uid(entropy_srcs=[uids, modality])
    result.SeriesInstanceUID = generate_uid(entropy_srcs=[uids, modality, "series"])
    result.Modality = modality
    for name in ("StudyInstanceUID", "PatientID", "PatientName", "StudyDescription"):
        setattr(result, name, source.get(name))
    return result


def make_study(folder, number, *, modality="NM", description="", files=1):
    """Write the files of a study and return their paths."""
    paths = []
    for part in range(files):
        path = folder / f"{number:04d}_{part}.dcm"
        counts = np.full((1, 8, 8), number % 100, dtype=np.float32)
        write_scintigram(path, counts, spacing_mm=(4.0, 4.0), views=("ANT",), uid_seed=f"{number}/{part}")
        file = pydicom.dcmread(path)
        file.StudyInstanceUID = generate_uid(entropy_srcs=["study", str(number)])
        file.SeriesInstanceUID = generate_uid(entropy_srcs=["series", str(number)])
        file.PatientName, file.PatientID, file.PatientBirthDate = SECRETS
        file.StudyDescription = description
        file.Modality = modality
        file.save_as(path)
        paths.append(path)
    return paths


def free_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def new_node(folder: Path, stable_s: int = 1) -> Node:
    node = Node(folder, *free_ports(3), stable_s=stable_s)
    node.prepare()
    return node


def wait_for(condition, seconds=30.0):
    """Wait until a condition holds; Orthanc may be away meanwhile."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(ArchiveAway):
            if found := condition():
                return found
        time.sleep(0.05)
    pytest.fail(f"not true within {seconds} s")


def send(node, paths):
    """Send files by C-STORE, over and over until the archive has acknowledged all."""
    command = ["storescu", "-aec", "SCINTIKIT", "127.0.0.1", str(node.dicom_port), *map(str, paths)]
    wait_for(lambda: subprocess.run(command, capture_output=True).returncode == 0, 60)


def results(archive: Archive, modality: str) -> dict:
    """Return how many instances of a modality each study has."""
    found = {}
    for study in archive._json("GET", "/studies"):
        series = [one for one in archive.series(study) if one["MainDicomTags"]["Modality"] == modality]
        found[study] = sum(len(one["Instances"]) for one in series)
    return found


@contextlib.contextmanager
def watching(node, run=run_cheaply):
    """Run a node's watcher in a thread."""
    stop = threading.Event()

    def work():
        ledger = Ledger(node.ledger)
        settings = Settings(stable_s=node.stable_s, poll_s=0.1)
        Watcher(node.archive(), ledger, run, node.folder / "work", settings).run(stop)
        ledger.close()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def rows(node):
    """Return the ledger's studies."""
    with contextlib.closing(sqlite3.connect(f"file:{node.ledger}?mode=ro", uri=True)) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute("SELECT * FROM studies")]


@contextlib.contextmanager
def orthanc(node):
    """Run a node's Orthanc alone."""
    command, environment = node.orthanc()
    with (node.folder / "orthanc.log").open("ab") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        wait_for(lambda: node.archive().last_change() >= 0)
        yield process
    finally:
        process.terminate()
        process.wait(20)
