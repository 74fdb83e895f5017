"""No prompt learning at all: the classifier that a CLIP is by itself."""

from .backbone import Backbone
from .learner import Learner
from .wording import PHOTO, Wording


class ZeroShot(Learner):
    """Classify by the texts "a photo of a NAME.".

    Source:
        Radford et al., "Learning transferable visual models from natural language supervision",
        ICML 2021, section 3.1. arXiv:2103.00020.
    """

    def __init__(self, template: str = PHOTO) -> None:
        super().__init__()
        self.template = template

    @property
    def wording(self) -> Wording:
        """Words alone."""
        return Wording(template=self.template)

    def check(self, backbone: Backbone, classes: int) -> None:
        """Fit everything."""
