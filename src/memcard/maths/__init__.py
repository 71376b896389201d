"""Tensor kernels shared by the floors above; the first floor that may import torch."""
