"""Generators of scintigrams: paths and solvers, conditions, and the writing of synthetic datasets."""

from scintikit.generation.acquisition import acquire
from scintikit.generation.autoencoder import AutoencoderStep, PreparePictures, TrainedAutoencoder, measure_latents
from scintikit.generation.counts import count_level, stabilise, unstabilise
from scintikit.generation.diffusion import DiffusionSampler, PrepareDiffusion
from scintikit.generation.fields import CameraFields
from scintikit.generation.flow import PrepareFlow
from scintikit.generation.generating import Generation
from scintikit.generation.items import generator_items
from scintikit.generation.latents import LatentDataset
from scintikit.generation.layout import LayoutLearning
from scintikit.generation.masks import Deformation, draw_deformation, vary_mask
from scintikit.generation.modes import pick_mode
from scintikit.generation.pretrained import (
    PretrainedAutoencoder,
    PretrainedDenoiser,
    PretrainedFolder,
    PretrainedTokenizer,
    pretrained_scheduler,
)
from scintikit.generation.preview import PreviewSamples
from scintikit.generation.quality import QualityGate
from scintikit.generation.requests import MissingBatches, PrepareRequests, RequestBatches
from scintikit.generation.sampler import FlowSampler, PlausibleSampler
from scintikit.generation.solvers import integrate
from scintikit.generation.statistics import TrainingStatistics, load_generation, measure_training
from scintikit.generation.text import SubwordTokenizer, WordTokenizer, count_words
from scintikit.generation.text_encoder import FrozenTextEncoder, TextCheckpoint
from scintikit.generation.transforms import BodyFrame, FixedSize, MaskAndField, Stabilised
from scintikit.generation.writing import ExpectedCounts, WriteBatches

__all__ = [
    "AutoencoderStep",
    "BodyFrame",
    "CameraFields",
    "Deformation",
    "DiffusionSampler",
    "ExpectedCounts",
    "FixedSize",
    "FlowSampler",
    "FrozenTextEncoder",
    "Generation",
    "LatentDataset",
    "LayoutLearning",
    "MaskAndField",
    "MissingBatches",
    "PlausibleSampler",
    "PrepareDiffusion",
    "PrepareFlow",
    "PreparePictures",
    "PrepareRequests",
    "PretrainedAutoencoder",
    "PretrainedDenoiser",
    "PretrainedFolder",
    "PretrainedTokenizer",
    "PreviewSamples",
    "QualityGate",
    "RequestBatches",
    "Stabilised",
    "SubwordTokenizer",
    "TextCheckpoint",
    "TrainedAutoencoder",
    "TrainingStatistics",
    "WordTokenizer",
    "WriteBatches",
    "acquire",
    "count_level",
    "count_words",
    "draw_deformation",
    "generator_items",
    "integrate",
    "load_generation",
    "measure_latents",
    "measure_training",
    "pick_mode",
    "pretrained_scheduler",
    "stabilise",
    "unstabilise",
    "vary_mask",
]
