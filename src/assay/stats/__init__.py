"""Tests, corrections, intervals, robust outliers, conformal p-values: pure functions of numbers."""

from .conformal import conformal_p_values as conformal_p_values
from .contamination import contamination as contamination
from .exceedances import Exceedances as Exceedances
from .exceedances import exceedance_scan as exceedance_scan
from .exceedances import exceedance_test as exceedance_test
from .exceedances import scan_ranks as scan_ranks
from .intervals import clopper_pearson as clopper_pearson
from .intervals import wilson as wilson
from .moderated import excess_p_values as excess_p_values
from .moderated import moderated_excess as moderated_excess
from .multiple import benjamini_hochberg as benjamini_hochberg
from .multiple import holm as holm
from .ranking import auroc as auroc
from .ranking import tpr_at_fpr as tpr_at_fpr
from .ridge import PooledRidge as PooledRidge
from .robust import median as median
from .robust import median_absolute_deviation as median_absolute_deviation
from .robust import robust_z_scores as robust_z_scores
from .tails import Tail as Tail
from .tails import TailScan as TailScan
from .tails import fit_tail as fit_tail
from .tails import tail_scan as tail_scan
from .two_groups import TwoGroups as TwoGroups
from .two_groups import fit_two_groups as fit_two_groups
