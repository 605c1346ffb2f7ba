"""Program: add `model.ts` and `model.onnx` to the folder of a bundle, by the bundle's own code and weights.

python export.py FOLDER
"""
