//! `prior.conditional_gaussian`: where latents come from depends on the condition.

use tch::{Device, Kind, Tensor};

use super::{Prior, PriorContext};
use crate::math::{bounded_log_var, standard_normal_log_prob};
use crate::network::{Layer, Then};
use crate::{ClosedKl, Initialization, Posterior, nn};
