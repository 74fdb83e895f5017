"""Known attacks, one a file, by name.

Default rates are those at which confusion training was shown on CIFAR-10, or those of the attack's
own paper or code where it was not. All-to-all is a setting of `BadNets`, the second watermark
one of `FeatureWatermark`.
"""

from assay_zoo.poison import Attack, TextAttack

from .adaptive_blend import AdaptiveBlend as AdaptiveBlend
from .adaptive_k_way import AdaptiveKWay as AdaptiveKWay
from .adaptive_patch import AdaptivePatch as AdaptivePatch
from .badnets import BadNets as BadNets
from .blend import Blended as Blended
from .clean_label import CleanLabel as CleanLabel
from .ctrl import Ctrl as Ctrl
from .feature_watermark import FeatureWatermark as FeatureWatermark
from .ftrojan import FTrojan as FTrojan
from .input_aware import InputAware as InputAware
from .inserted_text import InsertedText as InsertedText
from .issba import Issba as Issba
from .refool import Refool as Refool
from .sig import Sig as Sig
from .tact import TaCT as TaCT
from .trojan import Trojan as Trojan
from .unlabelled_grid import UnlabelledGrid as UnlabelledGrid
from .wanet import WaNet as WaNet

ATTACKS: dict[str, type[Attack] | type[TextAttack]] = {
    "adaptive-blend": AdaptiveBlend,
    "adaptive-k-way": AdaptiveKWay,
    "adaptive-patch": AdaptivePatch,
    "badnets": BadNets,
    "blend": Blended,
    "clean-label": CleanLabel,
    "ctrl": Ctrl,
    "feature-watermark": FeatureWatermark,
    "ftrojan": FTrojan,
    "input-aware": InputAware,
    "inserted-text": InsertedText,
    "issba": Issba,
    "refool": Refool,
    "sig": Sig,
    "tact": TaCT,
    "trojan": Trojan,
    "unlabelled-grid": UnlabelledGrid,
    "wanet": WaNet,
}
