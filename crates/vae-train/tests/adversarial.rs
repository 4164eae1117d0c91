//! Games whose end is known.

use tch::{Device, Kind, Tensor, no_grad};
use vae_model::{Generator, ItemKind, ItemSpec, Standardization, Vae};
use vae_train::{Learner, RunConfig};

const N_STEPS: u64 = 1500;

/// Points `[n, 1, 1, 2]` of a Gaussian far from the standard one.
fn points(n: i64, generator: &mut Generator) -> Tensor {
    let noise = generator.normal([n, 2], Device::Cpu);
    let map = Tensor::from_slice2(&[[1.5_f32, 0.4], [0.0, 0.5]]);
    (noise.matmul(&map) + Tensor::from_slice(&[2_f32, -1.0])).view([n, 1, 1, 2])
}

/// Largest deviation of the mean from 0, and of the covariance from the identity, of the encoded points.
fn deviation(regularizer: &str) -> f64 {
    let text = format!(
        "dataset.idx.folder = 'unused'
         model.latent_dims = 2
         model.posterior = 'deterministic'
         model.network.mlp.hidden = [32]
         model.likelihood.gaussian = {{ sigma = 0.5, mean = 'linear' }}
         objective.regularizer = {regularizer}
         optimizer.adam = {{ learning_rate = 2e-3, beta1 = 0.5 }}
         players.latent_discriminator.optimizer.adam = {{ learning_rate = 2e-3, beta1 = 0.5 }}
         players.latent_discriminator.schedule.cosine = {{}}
         training.epochs = {N_STEPS}
         training.batch_size = 256"
    );
    let mut config: RunConfig = toml::from_str(&text).expect("a config");
    if regularizer == "'none'" {
        config.players.clear();
    }
    let item = ItemSpec {
        standardization: Some(Standardization {
            mean: vec![2.0, -1.0],
            std: vec![1.5, 0.64],
        }),
        ..ItemSpec::new(ItemKind::Array, vec![2])
    };
    let vae = Vae::new(&config.model, item, Device::Cpu, 1).expect("a model");
    let mut learner = Learner::new(&vae, &config, 256).expect("a learner");
    let mut generator = Generator::cpu(3);
    for step in 0..N_STEPS {
        // Both players' rates fall to 0, so that the game comes to rest.
        let done = step as f64 / N_STEPS as f64;
        learner.set_learning_rate_factor(0.5 + 0.5 * (std::f64::consts::PI * done).cos());
        let batch = points(256, &mut generator);
        learner.step(&batch, step, step).expect("a step");
    }
    let encoded = no_grad(|| vae.encode(&points(20_000, &mut generator)))
        .expect("encoded")
        .center()
        .to_kind(Kind::Double);
    let mean = encoded.mean_dim(0, false, Kind::Double);
    let centered = &encoded - &mean;
    let covariance = centered.transpose(0, 1).matmul(&centered) / 20_000.0;
    let identity = Tensor::eye(2, (Kind::Double, Device::Cpu));
    let largest = |tensor: Tensor| tensor.abs().max().double_value(&[]);
    largest(mean).max(largest(covariance - identity))
}

#[test]
fn the_aggregate_posterior_of_an_adversarial_autoencoder_is_the_prior() {
    let adversarial = deviation("{ adversarial = { weight = 2.0, hidden = [32, 32] } }");
    let plain = deviation("'none'");
    assert!(adversarial < 0.25, "{adversarial}");
    assert!(plain > 2.0 * adversarial, "{plain} vs {adversarial}");
}
