//! `likelihood.student_t`: values with heavy tails.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use vae_base::ItemSpec;

use super::real_values::{Density, RealValues};
use super::{MeanActivation, ScaleConfig};
use crate::{ModelError, nn};

/// Independent values of Student's t distribution around the decoder's output (Takahashi et al. 2018,
/// <https://www.ijcai.org/proceedings/2018/374>). Outliers cost little, so that a few of them do not distort the model.
/// Arrays are standardized, bytes are scaled to `[-1, 1]`.
///
/// A density: nats per item, no bits/dim.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct StudentTConfig {
    /// ν, the degrees of freedom: few give heavy tails, many approach the Gaussian. Default 5.
    #[schemars(range(min = LEAST, max = MOST))]
    pub degrees_of_freedom: f64,
    /// The scale of the distribution, which is σ for large ν. Default `"learned"`.
    pub scale: ScaleConfig,
    /// The function that turns the decoder's output into the center. Default `"linear"`.
    pub mean: MeanActivation,
}

const LEAST: f64 = 0.1;
const MOST: f64 = 1e4;

impl Default for StudentTConfig {
    fn default() -> Self {
        Self {
            degrees_of_freedom: 5.0,
            scale: ScaleConfig::default(),
            mean: MeanActivation::default(),
        }
    }
}

impl StudentTConfig {
    pub(super) fn check(&self) -> Result<(), ModelError> {
        self.scale.check("model.likelihood.student_t.scale")?;
        let nu = self.degrees_of_freedom;
        if (LEAST..=MOST).contains(&nu) {
            return Ok(());
        }
        let problem = format!("found {nu:?}, expected a number from {LEAST} to {MOST}");
        Err(ModelError::config(
            "model.likelihood.student_t.degrees_of_freedom",
            problem,
        ))
    }

    pub(super) fn build(&self, path: &nn::Path, item: &ItemSpec) -> RealValues {
        let density = Density::StudentT {
            degrees_of_freedom: self.degrees_of_freedom,
        };
        RealValues::build(path, item, density, self.scale, self.mean)
    }
}
