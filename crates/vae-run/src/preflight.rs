//! What a config and its data will make of a run, as far as it shows before the first step.

use vae_base::counted;
use vae_data::{Dataset, Splits};
use vae_model::Vae;

use crate::{RunConfig, RunError};

/// Fewer validation items are warned of.
const LEAST_VALIDATION: usize = 5;

/// Images that are compared to find out whether they are all alike.
const N_COMPARED: usize = 64;

/// Warnings about a run, each of which names the setting that it is about.
///
/// # Errors
/// Images that can no longer be read.
pub fn preflight(config: &RunConfig, vae: &Vae, splits: &Splits) -> Result<Vec<String>, RunError> {
    let n_train = splits.train.len();
    let batch_size = config.training.batch_size;
    let n_steps = config.n_steps(n_train);
    let mut warnings = Vec::new();
    let warm_up = config.schedule.warm_up_steps(n_steps);
    if warm_up >= n_steps && n_steps > 0 {
        warnings.push(format!(
            "the learning rate rises over {warm_up} steps, and the run has {n_steps}: it never arrives. \
             schedule.{}.warm_up_share = 0.05 fits any run, or more training.epochs",
            config.schedule.name()
        ));
    }
    let settled = config.objective_in_run(n_train).settled_step();
    if settled > n_steps && n_steps > 0 {
        warnings.push(format!(
            "the objective is what it is meant to be from step {settled} on, and the run has {n_steps} steps: \
             objective.regularizer's schedule or objective.adversarial.start is longer than training.epochs; a share of the run would fit"
        ));
    }
    if n_train < batch_size {
        let steps = match config.passes_per_epoch(n_train) {
            1 => ", and an epoch is one step",
            _ => "",
        };
        warnings.push(format!(
            "{n_train} training items are fewer than training.batch_size = {batch_size}: every step sees all of \
             them{steps}"
        ));
    }
    if let Some(n) = splits.validation.as_ref().map(Dataset::len)
        && n < LEAST_VALIDATION
    {
        warnings.push(format!(
            "which checkpoint is the best is decided by {} (dataset.validation): so few say little",
            counted(n, "validation item")
        ));
    }
    let n_latents = vae.config().n_latents();
    if (n_train as i64) < n_latents && vae.has_encoder() {
        warnings.push(format!(
            "{n_train} training items are fewer than the {n_latents} latent dimensions (model.latent_dims): each \
             item can have a dimension of its own, and the model will know them by heart"
        ));
    }
    if are_alike(&splits.train)? {
        warnings.push(format!(
            "the first {} training items are all the same: there is nothing to learn from them",
            n_train.min(N_COMPARED)
        ));
    }
    Ok(warnings)
}

/// Whether the first items are equal, of two at least.
fn are_alike(items: &Dataset) -> Result<bool, RunError> {
    let n = items.len().min(N_COMPARED);
    if n < 2 {
        return Ok(false);
    }
    let items = items.first(n)?;
    let first = items.narrow(0, 0, 1).expand_as(&items);
    Ok(items.f_equal(&first).map_err(vae_model::ModelError::from)?)
}

#[cfg(test)]
mod tests {
    use tch::{Kind, Tensor};

    use super::*;

    /// The warnings about a run on `n` items, equal or not.
    fn warnings(config: &str, n: i64, is_alike: bool) -> Vec<String> {
        let text = format!("dataset.idx.folder = 'd'\nmodel.network.mlp.hidden = [4]\n{config}");
        let config: RunConfig = toml::from_str(&text).expect("a config");
        let cpu = tch::Device::Cpu;
        let items = match is_alike {
            true => Tensor::full([n, 1, 2, 2], 7, (Kind::Uint8, cpu)),
            false => Tensor::arange(4 * n, (Kind::Uint8, cpu)).view([n, 1, 2, 2]),
        };
        let items = Dataset::new(items, None).expect("items");
        let splits = Splits::new(
            items,
            None,
            Dataset::new(Tensor::zeros([1, 1, 2, 2], (Kind::Uint8, cpu)), None).expect("an item"),
        );
        let vae = Vae::new(&config.model, splits.train.spec(), cpu, 0).expect("a model");
        preflight(&config, &vae, &splits).expect("warnings")
    }

    #[test]
    fn what_cannot_go_well_is_said_before_it_begins() {
        let good = "training = { epochs = 10, batch_size = 8 }\nmodel.latent_dims = 2\n";
        assert_eq!(warnings(good, 40, false), [""; 0]);
        let one = |extra: &str, n, is_alike, wanted: &str| {
            let found = warnings(&format!("{good}{extra}"), n, is_alike);
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].contains(wanted), "{found:?}");
        };
        // 5 steps in each of 10 epochs.
        one(
            "schedule.cosine.warm_up_steps = 50",
            40,
            false,
            "schedule.cosine.warm_up_share",
        );
        assert_eq!(
            warnings(
                &format!("{good}schedule.cosine.warm_up_steps = 49"),
                40,
                false
            ),
            [""; 0]
        );
        let schedule = "objective.regularizer.kl.beta_schedule.warm_up.steps = ";
        one(
            &format!("{schedule}51"),
            40,
            false,
            "from step 51 on, and the run has 50",
        );
        assert_eq!(warnings(&format!("{good}{schedule}50"), 40, false), [""; 0]);
        one("", 7, false, "training.batch_size = 8");
        one("", 40, true, "all the same");
        let several = "training = { epochs = 10, batch_size = 8, least_steps_per_epoch = 5 }\nmodel.latent_dims = 2\n";
        let found = warnings(several, 7, false);
        assert!(
            found[0].ends_with("every step sees all of them"),
            "{found:?}"
        );
        let latents = good.replace("latent_dims = 2", "latent_dims = 41");
        assert!(warnings(&latents, 40, false)[0].contains("model.latent_dims"));
    }
}
