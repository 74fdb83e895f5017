"""The one place that opens files; whatever another party sent is refused rather than trusted."""

from .data import digest as digest
from .data import read_images as read_images
from .data import read_samples as read_samples
from .data import write_indices as write_indices
from .data import write_samples as write_samples
from .models import Factory as Factory
from .models import LoadedModel as LoadedModel
from .models import load_factory as load_factory
from .models import load_model as load_model
from .rows import FileRows as FileRows
