"""Region similarity J, boundary accuracy F and their means by the protocol of DAVIS 2017; none of it needs a trainer.

Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation", CVPR 2016, section 5, as
implemented in davis2017-evaluation (``davis2017/metrics.py``, ``davis2017/utils.py``).
"""

from lightning_vos.metrics.boundary import boundary_accuracy, region_and_boundary
from lightning_vos.metrics.davis import DavisScores, FrameScore, VideoScores
from lightning_vos.metrics.j_and_f import STATISTICS, JAndF, ObjectScores
from lightning_vos.metrics.region import region_similarity

__all__ = [
    "STATISTICS",
    "DavisScores",
    "FrameScore",
    "JAndF",
    "ObjectScores",
    "VideoScores",
    "boundary_accuracy",
    "region_and_boundary",
    "region_similarity",
]
