//! Trains a classifier of all attributes and classes of a data set, by whose features `vae eval` compares images: what
//! `cargo xtask classifier --data` runs.
//!
//! ```sh
//! cargo run --release -p vae-eval --example attribute_classifier -- CONFIG OUTPUT EPOCHS SEED
//! ```

use std::error::Error;
use std::io::{IsTerminal, Write};
use std::time::Instant;

use tch::Device;
use vae_data::DatasetConfig;
use vae_eval::features::AttributeClassifier;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [config, output, n_epochs, seed] = arguments.as_slice() else {
        return Err("arguments: a config with [dataset], the file to write, epochs, a seed".into());
    };
    let number = |text: &String| {
        let number = text.parse::<u64>();
        number.map_err(|_| format!("found {text:?}, a whole number is needed"))
    };
    let (n_epochs, seed) = (number(n_epochs)?, number(seed)?);
    let text = std::fs::read_to_string(config).map_err(|error| format!("{config}: {error}"))?;
    let table: toml::Table = toml::from_str(&text).map_err(|error| format!("{config}: {error}"))?;
    let dataset = table.get("dataset");
    let dataset = dataset.ok_or_else(|| format!("{config}: has no [dataset]"))?;
    let dataset: DatasetConfig = dataset
        .clone()
        .try_into()
        .map_err(|error| format!("{config}: [dataset]: {error}"))?;
    let splits = dataset.load()?;
    let shape = splits.train.shape();
    let begun = Instant::now();
    let mut shown = 0;
    let mut progress = |what: &str, n_done: usize, n: usize| {
        let percent = 100 * n_done / n;
        if std::io::stderr().is_terminal() && percent > shown {
            shown = percent;
            let left = begun.elapsed().as_secs_f64() / n_done as f64 * (n - n_done) as f64;
            eprint!("\r{what}: {percent} %, {left:.0} s left   ");
            let _ = std::io::stderr().flush();
        }
    };
    let (classifier, recognized) =
        AttributeClassifier::train(splits, n_epochs, seed, Device::Cpu, &mut progress)?;
    if shown > 0 {
        eprintln!();
    }
    classifier.save(output, [shape.height, shape.width])?;
    println!("accuracy on the test images, and its mean over the values:");
    for one in &recognized {
        let (accuracy, balanced) = (100.0 * one.accuracy, 100.0 * one.balanced_accuracy);
        println!("{:24} {accuracy:5.1} % {balanced:5.1} %", one.name);
    }
    println!(
        "{output}: seed {seed}, {:.0} s",
        begun.elapsed().as_secs_f64()
    );
    Ok(())
}
