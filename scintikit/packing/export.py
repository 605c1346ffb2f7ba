"""Program: add `model.ts` and `model.onnx` to the folder of a bundle."""
