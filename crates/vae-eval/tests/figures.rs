//! The figures of a report for small models after a few steps.

mod common;

use vae_eval::{Figures, figures};
use vae_model::{LatentSource, Vae};
use vae_run::{RunConfig, RunDir};

fn figures_of(tables: &str) -> Figures {
    let config: RunConfig = common::config(tables);
    let splits = common::digits(None);
    let vae: Vae = common::trained(&config, &splits, 3);
    let folder = tempfile::tempdir().expect("a folder");
    let run_dir = RunDir::create(&folder.path().join("run"), &config).expect("a run");
    figures(&vae, LatentSource::PRIOR, Some(&run_dir), &splits.test, 0).expect("figures")
}

fn titles(figures: &Figures) -> Vec<&str> {
    let pictures = figures.pictures.iter();
    pictures.map(|picture| picture.title.as_str()).collect()
}

#[test]
fn a_model_of_two_dimensions_shows_its_plane_and_others_their_most_used_dimensions() {
    let plane = figures_of("[model]\nlatent_dims = 2\n[pictures]\nn_samples = 1000");
    let wanted = ["Reconstructions", "Samples", "Latent plane", "Latents"];
    assert_eq!(titles(&plane), wanted);
    // At most 64 samples of 28 pixels, eight in a row, two pixels apart.
    let samples = &plane.pictures[1];
    assert_eq!((samples.width, samples.height), (238, 238));
    let line = figures_of("[model]\nlatent_dims = 1");
    assert_eq!(
        titles(&line),
        ["Reconstructions", "Samples", "Latent plane"]
    );
    let many = figures_of("[model]\nlatent_dims = 5\n[pictures]\nn_traversals = 3");
    let wanted = ["Reconstructions", "Samples", "Traversals", "Latents"];
    assert_eq!(titles(&many), wanted);
    assert_eq!(many.pictures[2].height, 3 * 30 - 2);
    for picture in plane.pictures.iter().chain(&many.pictures) {
        assert!(picture.png.starts_with(b"\x89PNG") && !picture.alt.is_empty());
        let decoded = image::load_from_memory(&picture.png).unwrap();
        assert_eq!(
            (decoded.width(), decoded.height()),
            (picture.width, picture.height)
        );
    }
    assert!(plane.records.is_empty());
}
