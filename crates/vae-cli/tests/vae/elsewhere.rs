//! A run and its data set are found from any folder, and another data set can be named.

use std::fs;
use std::path::Path;

use crate::common::{Workplace, stderr, succeeds_in as succeeds, vae_in};
use image::RgbImage;
use serde_json::Value;

fn fails(folder: &Path, args: &[&str], code: i32) -> String {
    let output = vae_in(folder, args);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
    assert_eq!(said.trim_end().lines().count(), 1, "{said}");
    said
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// The names of the items that `vae encode` finds, in their order.
fn found(folder: &Path, args: &[&str]) -> Vec<String> {
    let table = folder.join("found.csv");
    succeeds(
        folder,
        &[&["encode"], args, &["--out", text(&table)]].concat(),
    );
    let table = fs::read_to_string(table).expect("read");
    let names = table.lines().skip(1).map(|line| {
        let name = line.split(',').next().unwrap_or_default();
        name.trim_matches('"').to_owned()
    });
    names.collect()
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("created");
    for entry in fs::read_dir(from).expect("read") {
        let path = entry.expect("an entry").path();
        let to = to.join(path.file_name().expect("a name"));
        match path.is_dir() {
            true => copy_folder(&path, &to),
            false => fs::copy(&path, to).map(|_| ()).expect("copied"),
        }
    }
}

#[test]
fn a_run_finds_its_data_from_another_folder_and_where_it_is_copied_or_moved_to() {
    let workplace = Workplace::new();
    let run = workplace.train(&[], "run");
    let other = tempfile::tempdir().expect("a folder");
    let here = found(workplace.path(".").as_path(), &["run"]);
    assert_eq!(here.len(), 20);
    let there = found(other.path(), &[text(&run)]);
    assert_eq!(there.len(), 20);

    // Copied: the folder that it was started in is remembered.
    let copy = other.path().join("copy");
    copy_folder(&run, &copy);
    assert_eq!(
        found(other.path(), &["copy", "--checkpoint", "last"]).len(),
        20
    );

    // Moved together with its data: they lie above the run.
    let moved = other.path().join("moved");
    copy_folder(&run, &moved.join("run"));
    let data = workplace.path("data");
    copy_folder(&data, &moved.join("data"));
    fs::remove_dir_all(&data).expect("removed");
    let run = moved.join("run");
    assert_eq!(found(other.path(), &[text(&run)]).len(), 20);

    // Moved alone: named.
    fs::rename(moved.join("data"), moved.join("elsewhere")).expect("moved");
    let said = fails(other.path(), &["encode", text(&run), "--out", "x.csv"], 1);
    assert!(said.contains("also looked for in "), "{said}");
    let data = moved.join("elsewhere");
    let named = found(other.path(), &[text(&run), "--data", text(&data)]);
    assert_eq!(named.len(), 20);
}

#[test]
fn a_config_finds_the_data_beside_it_and_a_run_resumes_elsewhere() {
    let workplace = Workplace::new();
    let other = tempfile::tempdir().expect("a folder");
    let config = workplace.path("small.toml");
    let args = [
        "train",
        text(&config),
        "--device",
        "cpu",
        "--epochs",
        "1",
        "--out",
        "run",
    ];
    succeeds(other.path(), &args);
    let third = tempfile::tempdir().expect("a folder");
    let run = other.path().join("run");
    let args = [
        "train",
        "--resume",
        text(&run),
        "--device",
        "cpu",
        "--epochs",
        "2",
    ];
    succeeds(third.path(), &args);
    let config = fs::read_to_string(run.join("config.toml")).expect("read");
    assert!(
        config.contains("folder = \"data\""),
        "as it was written: {config}"
    );
    assert_eq!(found(third.path(), &[text(&run)]).len(), 20);
}

#[test]
fn a_data_set_is_named_for_training_and_its_reading_changed() {
    let workplace = Workplace::new();
    let data = workplace.path("data");
    fs::rename(&data, workplace.path("moved")).expect("moved");
    let run = workplace.train(&["--data", "moved"], "run");
    let config = fs::read_to_string(run.join("config.toml")).expect("read");
    assert!(config.contains("/moved\""), "{config}");
    let here = workplace.path(".");
    let few = found(&here, &["run", "--set", "dataset.test_limit=3"]);
    assert_eq!(few.len(), 3);
    let said = fails(
        &here,
        &[
            "encode",
            "run",
            "--out",
            "x.csv",
            "--set",
            "model.latent_dims=3",
        ],
        2,
    );
    assert!(said.contains("the model is trained"), "{said}");
    let said = fails(
        &here,
        &[
            "encode",
            "run",
            "--out",
            "x.csv",
            "--set",
            "dataset.test_limt=3",
        ],
        2,
    );
    assert!(said.contains("did you mean `test_limit`?"), "{said}");
}

#[test]
fn items_of_the_splits_have_names_in_every_command() {
    let workplace = Workplace::new();
    workplace.train(&[], "run");
    let here = workplace.path(".");
    let names = found(
        &here,
        &[
            "run",
            "test:3",
            "validation:0..2",
            "train:69",
            "data/t10k-images-idx3-ubyte#5",
        ],
    );
    let ends: Vec<&str> = names
        .iter()
        .map(|name| name.rsplit('/').next().unwrap_or_default())
        .collect();
    assert_eq!(
        ends,
        [
            "t10k-images-idx3-ubyte#3",
            "train-images-idx3-ubyte#70",
            "train-images-idx3-ubyte#71",
            "train-images-idx3-ubyte#69",
            "t10k-images-idx3-ubyte#5",
        ]
    );
    let of_place = |place: &str, out: &str| {
        succeeds(
            &here,
            &[
                "interpolate",
                "run",
                place,
                "prior:0",
                "--plain",
                "--out",
                out,
            ],
        );
        image::open(here.join(out)).expect("a picture").to_rgb8()
    };
    let same = [
        ("test:3", "a.png"),
        ("data/t10k-images-idx3-ubyte#3", "b.png"),
    ];
    let [a, b] = same.map(|(place, out)| of_place(place, out));
    assert_eq!(a.into_raw(), b.into_raw());
    of_place("validation:13", "c.png");
    for (place, expected) in [
        ("test:20", "there are 20 "),
        ("validation:14", "there are 14 "),
    ] {
        let said = fails(&here, &["encode", "run", place, "--out", "x.csv"], 1);
        assert!(said.contains(expected), "{said}");
        let said = fails(
            &here,
            &["interpolate", "run", place, "prior:0", "--out", "d.png"],
            1,
        );
        assert!(said.contains(expected), "{said}");
    }
}

/// 24 images in each of two folders, red and blue.
fn photos(folder: &Path) {
    for (class, color) in [("berries", [200, 20, 20]), ("skies", [20, 60, 220])] {
        let folder = folder.join("photos").join(class);
        fs::create_dir_all(&folder).expect("created");
        for i in 0..24_u8 {
            let image = RgbImage::from_fn(20, 20, |x, y| {
                image::Rgb(color.map(|c: u8| c.saturating_add(i + (x + y) as u8 / 2)))
            });
            image
                .save(folder.join(format!("{i:02}.png")))
                .expect("saved");
        }
    }
    let config = "[dataset.image_folder]\npath = 'photos'\nimage_size = 16\n[model]\nlatent_dims = 4\n\
                  [model.network.mlp]\nhidden = [32]\n[training]\nepochs = 12\nbatch_size = 8\n";
    fs::write(folder.join("photos.toml"), config).expect("written");
}

#[test]
fn folders_of_photos_are_classes() {
    let folder = tempfile::tempdir().expect("a folder");
    let here = folder.path();
    photos(here);
    let stats: Value =
        serde_json::from_str(&succeeds(here, &["data", "stats", "photos.toml"])).expect("JSON");
    let classes = stats["classes_of_train"].as_object().expect("classes");
    assert_eq!(classes.keys().collect::<Vec<_>>(), ["berries", "skies"]);
    let train = ["train", "photos.toml", "--device", "cpu", "--out"];
    succeeds(here, &[&train[..], &["run"]].concat());
    let learned = succeeds(here, &["attribute", "run", "learn", "class=berries"]);
    assert!(learned.contains("class=berries"), "{learned}");
    let said = fails(here, &["attribute", "run", "learn", "class=cats"], 1);
    assert!(said.contains("class=berries, class=skies"), "{said}");
    // Of its own folder's images the class is known too.
    let plotted = succeeds(here, &["plot", "run", "latents", "--out", "plot.png"]);
    assert!(plotted.contains("plot.png"), "{plotted}");
    let set = ["--set", "model.condition.classes=true"];
    succeeds(here, &[&train[..], &["of-class"], &set].concat());
    succeeds(
        here,
        &[
            "sample",
            "of-class",
            "--condition",
            "skies",
            "--out",
            "skies.png",
        ],
    );
    let said = fails(
        here,
        &[
            "sample",
            "of-class",
            "--condition",
            "cats",
            "--out",
            "x.png",
        ],
        1,
    );
    assert!(said.contains("berries"), "{said}");
}

#[test]
fn weights_alone_read_files() {
    let folder = tempfile::tempdir().expect("a folder");
    let here = folder.path();
    photos(here);
    succeeds(
        here,
        &[
            "train",
            "photos.toml",
            "--device",
            "cpu",
            "--epochs",
            "1",
            "--out",
            "run",
        ],
    );
    fs::copy(
        here.join("run/checkpoints/best/weights.safetensors"),
        here.join("alone.safetensors"),
    )
    .expect("copied");
    let of_run = found(here, &["run", "photos/skies"]);
    assert_eq!(of_run.len(), 24);
    assert_eq!(found(here, &["alone.safetensors", "photos/skies"]), of_run);
    assert_eq!(
        found(here, &["alone.safetensors", "photos/skies/03.png"]).len(),
        1
    );
    let of_split = found(here, &["alone.safetensors", "--data", "photos", "test:0"]);
    assert_eq!(of_split.len(), 1);
    succeeds(here, &["sample", "alone.safetensors", "--out", "drawn.png"]);
    let said = fails(here, &["encode", "alone.safetensors", "--out", "x.csv"], 1);
    assert!(said.contains("belong to no run"), "{said}");
}
