"""scintikit: what the MONAI Bundles for nuclear-medicine scintigraphy share.

Subpackages: `dicom` (read and write NM DICOM), `data` (the dataset contract), `phantoms` (simulated cameras and
patients), `engines` (parts for MONAI's trainers and evaluators), `metrics`, `reporting`.
Research use only; not a medical device.
"""

__version__ = "0.1.0"
