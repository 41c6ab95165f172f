"""Make the golden model file of the present format. Once per format: that of a released format is never remade."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
from tests.training.toys import Speller  # noqa: E402  found through the path above

from holdfast.training.model_file import FORMAT  # noqa: E402

path = Path(__file__).with_name(f"speller-format-{FORMAT}.safetensors")
if not path.exists():
    speller = Speller(hidden=5)
    examples = speller.synthesize(5, np.random.default_rng(0))
    speller.fit(examples, recipe=replace(Speller.recipe, steps=300)).save(path)
