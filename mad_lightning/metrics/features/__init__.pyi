from .base import FeatureExtractor as FeatureExtractor
from .classifier import Classifier as Classifier
from .dinov2 import DINOv2 as DINOv2
from .inception import Inception as Inception
from .lite0 import Lite0 as Lite0
from .plain import Identity as Identity
from .plain import Pixels as Pixels
from .vgg16 import VGG16 as VGG16
