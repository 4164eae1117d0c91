//! Trains the classifier of digits whose features `vae eval` compares images by: what
//! `cargo xtask classifier` runs.
//!
//! ```sh
//! cargo run --release -p vae-eval --example mnist_classifier -- FOLDER_OF_MNIST OUTPUT SEED
//! ```

use std::error::Error;
use std::io::{IsTerminal, Write};
use std::time::Instant;

use tch::Device;
use vae_data::config::IdxConfig;
use vae_data::{DatasetConfig, KnownDataset};
use vae_eval::features::MnistClassifier;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, output, seed] = arguments.as_slice() else {
        return Err("arguments: the folder of MNIST's files, the file to write, a seed".into());
    };
    let seed = seed
        .parse()
        .map_err(|_| format!("found the seed {seed:?}, a whole number is needed"))?;
    let config = DatasetConfig {
        idx: Some(IdxConfig {
            folder: folder.into(),
        }),
        ..Default::default()
    };
    let trained_on = config.identity()?.name;
    if trained_on != KnownDataset::Mnist {
        return Err(format!("{folder}: found images of {trained_on}, MNIST is wanted").into());
    }
    let splits = config.load()?;
    let begun = Instant::now();
    let mut shown = 0;
    let mut progress = |what: &str, n_done: usize, n: usize| {
        let percent = 100 * n_done / n;
        if std::io::stderr().is_terminal() && percent > shown {
            shown = percent;
            eprint!("\r{what}: {percent} %");
            let _ = std::io::stderr().flush();
        }
    };
    let (train, test) = (&splits.train, &splits.test);
    let device = Device::Cpu;
    let classifier = MnistClassifier::train(train, test, trained_on, seed, device, &mut progress)?;
    if shown > 0 {
        eprintln!();
    }
    classifier.save(output)?;
    let facts = classifier.facts();
    println!(
        "{output}: test accuracy {:.2} %, seed {seed}, SHA-256 of the weights {}, {:.0} s",
        100.0 * facts.test_accuracy,
        facts.weights_sha256,
        begun.elapsed().as_secs_f64()
    );
    Ok(())
}
