"""How alike are two models?"""

from .cka import linear_cka as linear_cka
