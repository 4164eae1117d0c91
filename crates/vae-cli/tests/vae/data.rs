//! `vae data` as users run it.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use image::RgbImage;
use serde_json::Value;
use tempfile::TempDir;

struct Workplace {
    folder: TempDir,
}

impl Workplace {
    /// 20 photos of 12×12 pixels, one unreadable file, and a config for them.
    fn new() -> Workplace {
        let folder = tempfile::tempdir().expect("a folder");
        let photos = folder.path().join("photos");
        fs::create_dir(&photos).expect("created");
        for i in 0..20_u8 {
            let photo = RgbImage::from_pixel(12, 12, image::Rgb([100, 10 * i, 255]));
            photo
                .save(photos.join(format!("{i:02}.png")))
                .expect("a photo");
        }
        fs::write(photos.join("empty.jpg"), b"").expect("written");
        let config = "[dataset.image_folder]\npath = 'photos'\nimage_size = 8\n\
                      max_bad_fraction = 0.1\n[dataset.image_folder.split]\ntest_fraction = 0.3\n";
        fs::write(folder.path().join("photos.toml"), config).expect("written");
        Workplace { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn vae(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_vae"))
            .args(args)
            .current_dir(self.folder.path())
            .env("OMP_NUM_THREADS", "1")
            .output()
            .expect("the binary runs")
    }

    /// The standard output of a command that must succeed.
    fn succeeds(&self, args: &[&str]) -> String {
        let output = self.vae(args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {said}");
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// The message of a command that must fail.
    fn fails(&self, args: &[&str], code: i32) -> String {
        let output = self.vae(args);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.starts_with("error: "), "{said}");
        said
    }
}

#[test]
fn a_pack_is_made_checked_and_made_again() {
    let workplace = Workplace::new();
    let said = workplace.fails(&["data", "check", "photos.toml"], 1);
    assert!(said.contains(".pack.safetensors does not exist"), "{said}");
    let pack = workplace.succeeds(&["data", "pack", "photos.toml"]);
    let pack = workplace.path(pack.trim_end());
    assert_eq!(
        workplace.succeeds(&["data", "check", "photos.toml"]),
        "empty.jpg\tis empty\n"
    );

    let content = fs::read(&pack).expect("a pack");
    fs::write(&pack, &content[..content.len() - 1]).expect("written");
    let said = workplace.fails(&["data", "check", "photos.toml"], 1);
    assert!(said.contains("is damaged"), "{said}");
    workplace.succeeds(&["data", "pack", "photos.toml"]);
    assert_eq!(fs::read(&pack).expect("a pack"), content);
}

#[test]
fn stats_count_and_average() {
    let workplace = Workplace::new();
    let rows: String = (0..20).map(|i| format!("{i:02}.png,{}\n", i % 2)).collect();
    fs::write(workplace.path("table.csv"), format!("file,odd\n{rows}")).expect("written");
    let set = "dataset.image_folder.attributes=table.csv";
    let stats = workplace.succeeds(&["data", "stats", "photos.toml", "--set", set]);
    let stats: Value = serde_json::from_str(&stats).expect("JSON");
    assert_eq!(stats["shape"], "3×8×8");
    let n = |split: &str| stats[split]["images"].as_u64().expect("a number");
    assert_eq!(n("train") + n("validation") + n("test"), 20);
    assert_eq!(stats["train"]["mean"][0], 100.0);
    assert_eq!(stats["train"]["standard_deviation"][2], 0.0);
    assert_eq!(stats["bad_files"][0]["reason"], "is empty");
    assert_eq!(stats["images_without_attributes"], 0);
    let odd = stats["attributes_of_train"]["odd"]["share_of_yes"]
        .as_f64()
        .expect("a number");
    assert!(0.0 < odd && odd < 1.0, "{odd}");
}

#[test]
fn stats_of_arrays_are_those_of_each_column() {
    let workplace = Workplace::new();
    let header = vae_base::NpyHeader {
        descr: "<f4".to_owned(),
        fortran_order: false,
        shape: vec![10, 2],
    };
    // Values 1 and 3 alternate; in the other column every second value is missing.
    let rows = (0..10).flat_map(|i| match i % 2 {
        0 => [1.0_f32, 7.0],
        _ => [3.0, f32::NAN],
    });
    let numbers: Vec<u8> = rows.flat_map(f32::to_le_bytes).collect();
    let bytes = [header.to_bytes(128), numbers].concat();
    fs::write(workplace.path("x.npy"), bytes).expect("written");
    let config = "[dataset.arrays]\ntrain = 'x.npy'\nsplit = 'in_order'\n";
    fs::write(workplace.path("x.toml"), config).expect("written");
    let said = workplace.fails(&["data", "stats", "x.toml"], 1);
    assert!(
        said.contains("x.npy: has 5 missing values (NaN), the first in row 1, column 1"),
        "{said}"
    );

    let set = "dataset.arrays.missing=ignore";
    let stats = workplace.succeeds(&["data", "stats", "x.toml", "--set", set]);
    let stats: Value = serde_json::from_str(&stats).expect("JSON");
    assert_eq!(
        (&stats["shape"], &stats["element"]),
        (&"2".into(), &"f32".into())
    );
    let train = &stats["train"];
    assert_eq!(train["items"], 8);
    assert_eq!(train["mean"], serde_json::json!([2.0, 7.0]));
    assert_eq!(train["standard_deviation"], serde_json::json!([1.0, 0.0]));
    assert_eq!(train["min"], serde_json::json!([1.0, 7.0]));
    assert_eq!(train["missing_share"], serde_json::json!([0.0, 0.5]));
    // Only the last row.
    assert_eq!(stats["test"]["mean"], serde_json::json!([3.0, null]));
}

#[test]
fn files_of_other_formats_are_named() {
    let workplace = Workplace::new();
    for i in 0..6 {
        let name = workplace.path(&format!("photos/IMG_{i}.HEIC"));
        fs::write(name, b"\0\0\0\x18ftypheic").expect("written");
    }
    let output = workplace.vae(&["data", "stats", "photos.toml"]);
    let stats: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(stats["files_not_read"], serde_json::json!({ "HEIC": 6 }));
    assert_eq!(stats["bad_files"].as_array().map(Vec::len), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    let wanted = "6 HEIC files are not read: convert them to JPEG or PNG";
    assert!(said.contains(wanted), "{said}");
}

#[test]
fn a_run_within_its_photos_is_not_trained_on() {
    let workplace = Workplace::new();
    let config = "[dataset.image_folder]\npath = '.'\nimage_size = 8\nmax_bad_fraction = 0.1\n\
                  [dataset.image_folder.split]\ntest_fraction = 0.3\n\
                  [model]\nlatent_dims = 2\n[model.network.mlp]\nhidden = [4]\n\
                  [training]\nepochs = 1\nbatch_size = 8\n";
    fs::write(workplace.path("tiny.toml"), config).expect("written");
    let vae = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_vae"))
            .args(args)
            .current_dir(workplace.path("photos"))
            .env("OMP_NUM_THREADS", "1")
            .output()
            .expect("the binary runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {said}");
        output
    };
    vae(&["train", "../tiny.toml"]);
    let pictures = fs::read_dir(workplace.path("photos/runs/tiny/pictures")).expect("pictures");
    assert!(pictures.count() > 0);
    vae(&["train", "--resume", "runs/tiny", "--epochs", "2"]);
    let stats = vae(&["data", "stats", "../tiny.toml"]).stdout;
    let stats: Value = serde_json::from_slice(&stats).expect("JSON");
    let n = |split: &str| stats[split]["images"].as_u64().expect("a number");
    assert_eq!(n("train") + n("validation") + n("test"), 20);
}

#[test]
fn bench_measures_files_and_pack() {
    let workplace = Workplace::new();
    let args = [
        "data",
        "bench",
        "photos.toml",
        "--images",
        "50",
        "--reps",
        "2",
        "--workers",
        "2",
        "--seconds",
        "0",
    ];
    let lines: Vec<Value> = workplace
        .succeeds(&args)
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let from: Vec<_> = lines.iter().map(|line| line["from"].as_str()).collect();
    assert_eq!(from, ["files", "files", "pack", "pack"].map(Some));
    assert!(
        lines
            .iter()
            .all(|line| line["images_per_s"].as_f64() > Some(0.0))
    );
}

#[test]
fn a_model_trains_on_photos_and_describe_shows_their_transform() {
    let workplace = Workplace::new();
    let described = workplace.succeeds(&["describe", "photos.toml"]);
    for line in [
        "crop_fraction = 1.0",
        "image_size = 8",
        "test_fraction = 0.3",
    ] {
        assert!(described.contains(line), "{line} in {described}");
    }
    let hidden = "model.network.mlp.hidden=[8]";
    workplace.succeeds(&[
        "train",
        "photos.toml",
        "--epochs",
        "1",
        "--device",
        "cpu",
        "--out",
        "run",
        "--set",
        hidden,
    ]);
    workplace.succeeds(&[
        "reconstruct",
        "run",
        "--count",
        "2",
        "--device",
        "cpu",
        "-o",
        "a.png",
    ]);
}

#[test]
fn too_many_bad_files_end_a_command_in_one_line() {
    let workplace = Workplace::new();
    let limit = "dataset.image_folder.max_bad_fraction=0.01";
    let said = workplace.fails(&["data", "stats", "photos.toml", "--set", limit], 1);
    assert_eq!(said.trim_end().lines().count(), 1, "{said}");
    assert!(said.contains("at least 1 of 21 files"), "{said}");
    assert!(said.contains("empty.jpg is empty"), "{said}");
    let idx = "[dataset.idx]\nfolder = 'x'\n";
    fs::write(workplace.path("idx.toml"), idx).expect("written");
    let said = workplace.fails(&["data", "pack", "idx.toml"], 2);
    assert!(said.contains("needs [dataset.image_folder]"), "{said}");
}

#[test]
fn photos_train_and_the_run_lists_the_bad_ones() {
    let workplace = Workplace::new();
    let args = [
        "train",
        "photos.toml",
        "--out",
        "run",
        "--epochs",
        "2",
        "--device",
        "cpu",
        "--set",
        "model.network.residual={channels=[8, 8]}",
        "--set",
        "model.likelihood.gaussian={}",
        "--set",
        "model.latent_dims=3",
    ];
    let pictures = workplace.succeeds(&args);
    let names: Vec<_> = pictures.lines().collect();
    let picture = |name: &str| format!("run/pictures/epoch-0002-{name}.png");
    let wanted = ["traversals", "samples", "reconstructions"].map(picture);
    assert_eq!(names, wanted);
    for name in names {
        let color = image::open(workplace.path(name))
            .expect("a picture")
            .color();
        assert_eq!(color, image::ColorType::Rgb8, "{name}");
    }
    let bad = fs::read_to_string(workplace.path("run/bad-files.txt")).expect("a list");
    assert_eq!(bad, "empty.jpg\tis empty\n");

    // The held-out images are those of the split by name, and none of them is trained on.
    let stats = workplace.succeeds(&["data", "stats", "photos.toml"]);
    let stats: Value = serde_json::from_str(&stats).expect("JSON");
    let summary = fs::read_to_string(workplace.path("run/summary.json")).expect("a summary");
    let summary: Value = serde_json::from_str(&summary).expect("JSON");
    let n = |split: &str| stats[split]["images"].clone();
    assert_eq!(summary["n_train_images"], n("train"));
    assert_eq!(summary["n_test_images"], n("test"));
}
