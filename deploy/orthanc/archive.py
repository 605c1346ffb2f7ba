"""The few questions that the watcher asks Orthanc, in its REST API (Orthanc Book, "REST API of Orthanc")."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import requests
from requests.adapters import HTTPAdapter

from scintikit.errors import ScintikitError

TIMEOUT_S = (3, 60)
"""To connect; to wait for the next byte."""


class ArchiveAway(ScintikitError, ConnectionError):
    """Orthanc does not answer or is about to stop: no fault of a study."""


class ArchiveError(ScintikitError):
    """Orthanc refused something; the message says what and how."""


class Archive:
    """An Orthanc server.

    `requests` does it: eight plain GETs and POSTs, for which a client library of Orthanc would only add a layer.

    Parameters
    ----------
    url
        Such as `http://127.0.0.1:8042`.
    user, password
        One of Orthanc's `RegisteredUsers`.
    connections
        Kept open, for as many threads.
    """

    def __init__(self, url: str, user: str, password: str, connections: int = 8) -> None:
        self.url = url
        self.session = requests.Session()
        self.session.auth = (user, password)
        self.session.trust_env = False  # neither a proxy nor ~/.netrc has a say about a server on this machine
        self.session.mount("http://", HTTPAdapter(pool_maxsize=connections))

    def last_change(self) -> int:
        """Return the number of the newest entry of the change log; 0 if it is empty."""
        return self._json("GET", "/changes?last")["Last"]

    def changes(self, since: int, limit: int = 500) -> list[dict[str, Any]]:
        """Return the next entries of the change log after number `since`, oldest first."""
        return self._json("GET", f"/changes?since={since}&limit={limit}")["Changes"]

    def study(self, study: str) -> dict[str, Any] | None:
        """Return what Orthanc says of a study (`IsStable`, `MainDicomTags`), or None if there is none."""
        return self._found(f"/studies/{study}")

    def study_of(self, instance: str) -> str | None:
        """Return the study of an instance, or None if it is gone."""
        study = self._found(f"/instances/{instance}/study")
        return study and study["ID"]

    def series(self, study: str) -> list[dict[str, Any]]:
        """Return the series of a study, each with `MainDicomTags` and `Instances`; none if the study is gone."""
        return self._found(f"/studies/{study}/series") or []

    def download(self, instance: str, path: Path) -> None:
        """Write an instance's DICOM file."""
        path.write_bytes(self._request("GET", f"/instances/{instance}/file").content)

    def holds(self, uid: str, study: str) -> bool:
        """Tell whether a study has an instance of this SOP Instance UID.

        To Orthanc a study that was sent again under a corrected PatientID is another one, with the same UIDs.
        """
        found = self._json("POST", "/tools/lookup", data=uid)
        return any(entry["Type"] == "Instance" and self.study_of(entry["ID"]) == study for entry in found)

    def store(self, path: Path) -> None:
        """Store a DICOM file; one that is there already stays as it is."""
        self._request("POST", "/instances", data=path.read_bytes(), headers={"Content-Type": "application/dicom"})

    def _json(self, method: str, path: str, **body: Any) -> Any:
        return self._request(method, path, **body).json()

    def _found(self, path: str) -> Any | None:
        response = self._request("GET", path, missing=True)
        return None if response.status_code == requests.codes.not_found else response.json()

    def _request(
        self,
        method: str,
        path: str,
        data: bytes | str | None = None,
        headers: Mapping[str, str] | None = None,
        missing: bool = False,
    ) -> requests.Response:
        try:
            response = self.session.request(method, self.url + path, data=data, headers=headers, timeout=TIMEOUT_S)
        except requests.RequestException as error:
            raise ArchiveAway(f"Orthanc at {self.url} does not answer ({type(error).__name__})") from error
        if response.status_code == requests.codes.unavailable:
            raise ArchiveAway(f"Orthanc at {self.url} is starting or stopping")
        if response.ok or (missing and response.status_code == requests.codes.not_found):
            return response
        hint = "; the password of the node is not this Orthanc's" if response.status_code == 401 else ""
        raise ArchiveError(f"Orthanc answered {method} {path.partition('?')[0]} with {response.status_code}{hint}")


def instances_of(series: Sequence[Mapping[str, Any]], modalities: frozenset[str]) -> list[str]:
    """Return the instances of those series that are of one of the modalities, sorted."""
    return sorted(
        instance
        for one in series
        if one["MainDicomTags"].get("Modality") in modalities
        for instance in one["Instances"]
    )
