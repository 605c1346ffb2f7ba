"""Reads NM studies and writes what the classifier bundles say of them as DICOM. Research use only.

The modules here name each other relatively: a container has this folder under another name.
"""
