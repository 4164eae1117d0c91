//! The commands that explore the latent space of a run.

use std::fs;
use std::path::Path;

use crate::common::{SIDE, Workplace, stderr, stdout};
use image::{GrayImage, Luma};
use serde_json::Value;

/// The width in pixels of `n` images in a row, with gaps of two pixels.
fn row(n: u32) -> u32 {
    n * SIDE as u32 + 2 * (n - 1)
}

/// A run with three latent dimensions, and an image file.
fn workplace() -> Workplace {
    let workplace = Workplace::new();
    workplace.train(&["--set", "model.latent_dims=3"], "run");
    let side = SIDE as u32;
    let image = GrayImage::from_fn(side, side, |x, _| Luma([if x % 7 < 2 { 230 } else { 5 }]));
    image.save(workplace.path("a.png")).expect("written");
    workplace
}

fn succeeds(workplace: &Workplace, args: &[&str]) -> String {
    let output = workplace.vae(args);
    assert!(output.status.success(), "{args:?}: {}", stderr(&output));
    stdout(&output)
}

fn json(workplace: &Workplace, args: &[&str]) -> Value {
    serde_json::from_str(&succeeds(workplace, args)).expect("JSON")
}

fn size(path: &Path) -> (u32, u32) {
    image::image_dimensions(path).expect("a picture")
}

#[test]
fn ways_through_latent_space_are_drawn_from_images_latents_and_seeds() {
    let workplace = workplace();
    let picture = workplace.path("p.png");
    for (args, wanted) in [
        (
            &[
                "interpolate",
                "run",
                "test:0",
                "a.png",
                "prior:7",
                "--steps",
                "4",
            ][..],
            (row(4), row(2)),
        ),
        (
            &["interpolate", "run", "z:0.5,-1,2", "z:1,1,1", "--slerp"],
            (row(10), row(1)),
        ),
        (
            &["traverse", "run", "--dims", "2,0", "--steps", "5"],
            (row(5), row(2)),
        ),
        (
            &["traverse", "run", "a.png", "--dims", "1", "--reach", "1"],
            (row(11), row(1)),
        ),
        (
            &["manifold", "run", "--dims", "2,1", "--size", "3"],
            (36, 36),
        ),
        (&["manifold", "run", "--dims", "0", "--size", "3"], (36, 12)),
        (&["reconstruct", "run", "a.png", "a.png"], (row(2), row(2))),
        (&["sample", "run", "--grid", "2x5"], (row(5), row(2))),
        (
            &["sample", "run", "--grid", "2x5", "--count", "7"],
            (row(5), row(2)),
        ),
        (
            &["arithmetic", "run", "a.png - test:1 + z:0,0,1"],
            (row(4), row(1)),
        ),
    ] {
        let _ = fs::remove_file(&picture);
        succeeds(&workplace, &[args, &["--plain", "--out", "p.png"]].concat());
        assert_eq!(size(&picture), wanted, "{args:?}");
        // With its names it is larger, and the images are enlarged.
        succeeds(&workplace, &[args, &["--out", "p.png"]].concat());
        let named = size(&picture);
        assert!(
            named.0 > wanted.0 && named.1 > wanted.1 + 60,
            "{args:?}: {named:?}"
        );
    }

    // A straight path from latents to the same latents shows the same picture everywhere.
    let still = [
        "interpolate",
        "run",
        "z:1,0,1",
        "z:1,0,1",
        "--steps",
        "2",
        "--plain",
        "--out",
        "p.png",
    ];
    succeeds(&workplace, &still);
    let drawn = image::open(&picture).expect("a picture").into_luma8();
    let shift = SIDE as u32 + 2;
    let same = |(x, y, pixel): (u32, u32, &Luma<u8>)| {
        x >= SIDE as u32 || drawn.get_pixel(x + shift, y) == pixel
    };
    assert!(drawn.enumerate_pixels().all(same));

    // At temperature 0 every sample is the decoded 0. Each is written to a file.
    let args = [
        "sample",
        "run",
        "--count",
        "3",
        "--temperature",
        "0",
        "--each",
        "each",
    ];
    assert_eq!(
        succeeds(&workplace, &args),
        "each/sample-0001.png\neach/sample-0002.png\neach/sample-0003.png\n"
    );
    let read = |i| fs::read(workplace.path(&format!("each/sample-000{i}.png"))).expect("bytes");
    assert!(read(1) == read(3));

    let args = [
        "interpolate",
        "run",
        "test:0",
        "test:1",
        "test:2",
        "--steps",
        "4",
    ];
    let moving = ["--gif", "way.gif", "--enlarge", "3", "--json"];
    let report = json(&workplace, &[&args[..], &moving].concat());
    assert_eq!(report["moving"], "way.gif");
    assert_eq!(size(&workplace.path("way.gif")), (36, 36));
    succeeds(&workplace, &[&args[..], &["--gif", "way.apng"]].concat());
    assert!(
        fs::read(workplace.path("way.apng"))
            .expect("bytes")
            .starts_with(b"\x89PNG")
    );

    let rows = json(
        &workplace,
        &["traverse", "run", "--plain", "--out", "p.png", "--json"],
    );
    let height = rows["height"].as_u64().expect("a number");
    assert!(
        [row(1), row(2), row(3)].contains(&(height as u32)),
        "{rows}"
    );
}

#[test]
fn of_many_dimensions_the_most_used_are_drawn_unless_more_are_asked_for() {
    let workplace = Workplace::new();
    // So much kl that no dimension is in use, and all are as good as any.
    let sets = [
        "model.latent_dims=40",
        "objective.regularizer.kl.beta=10000",
    ];
    workplace.train(&["--set", sets[0], "--set", sets[1]], "run");
    let height = |more: &[&str]| {
        let args = ["traverse", "run", "--plain", "--out", "rows.png"];
        let output = workplace.vae(&[&args[..], more].concat());
        assert!(output.status.success(), "{}", stderr(&output));
        let picture = image::open(workplace.path("rows.png")).expect("a picture");
        (picture.height(), stderr(&output))
    };
    let (all, said) = height(&["--rows", "40"]);
    assert!(!said.contains("most used"), "{said}");
    let (most, said) = height(&[]);
    assert!(said.contains("the 32 most used dimensions of 40"), "{said}");
    assert!(most < all, "{most} of {all}");
}

#[test]
fn principal_directions_and_attributes_are_rows_beside_single_dimensions() {
    let workplace = workplace();
    succeeds(&workplace, &["attribute", "run", "learn", "digit=3"]);
    let picture = workplace.path("p.png");
    for (args, n_rows) in [
        (&["--principal", "2"][..], 2),
        (&["--attributes", "digit=3"], 1),
        (
            &["--dims", "0", "--principal", "2", "--attributes", "class=3"],
            4,
        ),
        // There are three dimensions.
        (&["--principal"], 3),
    ] {
        let rest = ["--steps", "5", "--plain", "--out", "p.png"];
        succeeds(&workplace, &[&["traverse", "run"], args, &rest].concat());
        assert_eq!(size(&picture), (row(5), row(n_rows)), "{args:?}");
    }
    // Attribute directions go through the image itself.
    let middle = |args: &[&str]| {
        let rest = ["--steps", "3", "--plain", "--out", "p.png"];
        succeeds(&workplace, &[args, &rest].concat());
        let drawn = image::open(&picture).expect("a picture").into_luma8();
        image::imageops::crop_imm(&drawn, SIDE as u32 + 2, 0, SIDE as u32, SIDE as u32).to_image()
    };
    let of_attribute = middle(&["traverse", "run", "a.png", "--attributes", "digit=3"]);
    let of_strip = middle(&["attribute", "run", "strip", "digit=3", "a.png"]);
    assert_eq!(of_attribute, of_strip);
    let said = workplace.error(
        &[
            "traverse",
            "run",
            "--attributes",
            "digit=4",
            "--out",
            "p.png",
        ],
        1,
    );
    assert!(said.contains("class=4: no direction"), "{said}");
}

#[test]
fn a_picture_is_written_in_the_format_that_its_name_ends_in_or_refused_before_any_work() {
    let workplace = workplace();
    let read = |name: &str| fs::read(workplace.path(name)).expect("bytes");
    for (name, start) in [
        ("a.jpg", &b"\xff\xd8\xff"[..]),
        ("a.webp", b"RIFF"),
        ("a.gif", b"GIF89a"),
        ("a.apng", b"\x89PNG"),
    ] {
        succeeds(&workplace, &["traverse", "run", "--out", name]);
        assert!(read(name).starts_with(start), "{name}");
    }
    // The steps one after another, there and back: 3, then the one in the middle again.
    let args = ["interpolate", "run", "test:0", "test:1", "--steps", "3"];
    succeeds(&workplace, &[&args[..], &["--out", "way.apng"]].concat());
    let chunk = read("way.apng");
    let place = chunk
        .windows(4)
        .position(|name| name == b"acTL")
        .expect("frames");
    assert_eq!(chunk[place + 4..place + 8], 4_u32.to_be_bytes());
    succeeds(&workplace, &["plot", "run", "kl", "--out", "kl.svg"]);
    assert!(String::from_utf8_lossy(&read("kl.svg")).starts_with("<svg"));
    for (args, wanted) in [
        (
            &["sample", "nowhere", "--out", "a.svg"][..],
            "for plots; expected a name in .png",
        ),
        (
            &["plot", "nowhere", "kl", "--out", "a.mp4"],
            "for moving pictures",
        ),
        (&["traverse", "nowhere", "--out", "a.tiff"], "ends in .tiff"),
        (
            &["interpolate", "nowhere", "z:0", "z:1", "--gif", "a.webp"],
            "does not move",
        ),
        (
            &["interpolate", "nowhere", "z:0", "z:1", "--out", "a.mp4"],
            "written by ffmpeg",
        ),
    ] {
        // Before the run is even looked for.
        let output = workplace.command(args).env("PATH", "/nowhere").output();
        let output = output.expect("the binary runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{said}");
        assert!(said.contains(wanted) && said.contains(": a."), "{said}");
    }
}

/// A program in place of ffmpeg that keeps its arguments and what it gets, and writes a file.
#[cfg(unix)]
#[test]
fn an_mp4_is_written_by_the_ffmpeg_on_the_path() {
    use std::os::unix::fs::PermissionsExt;
    let workplace = workplace();
    let folder = workplace.path("bin");
    fs::create_dir(&folder).expect("made");
    let program = folder.join("ffmpeg");
    let script = format!(
        "#!/bin/sh\necho \"$@\" > {0}/args\ncat > {0}/frames\nfor last; do :; done\nprintf whole > \"$last\"\n",
        folder.display()
    );
    fs::write(&program, script).expect("written");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("allowed");
    let path = format!(
        "{}:{}",
        folder.display(),
        std::env::var("PATH").unwrap_or_default()
    );
    let args = [
        "interpolate",
        "run",
        "test:0",
        "test:1",
        "--steps",
        "3",
        "--plain",
        "--out",
        "w.mp4",
    ];
    let run = |args: &[&str]| {
        let output = workplace.command(args).env("PATH", &path).output();
        output.expect("the binary runs")
    };
    let output = run(&args);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(fs::read(workplace.path("w.mp4")).expect("bytes"), b"whole");
    let side = SIDE as u32;
    let frames = fs::read(folder.join("frames")).expect("frames");
    assert_eq!(frames.len() as u32, 4 * side * side * 3, "3 there, 1 back");
    let said = fs::read_to_string(folder.join("args")).expect("arguments");
    assert!(
        said.contains(&format!("-s {side}x{side} -r 1000/100")),
        "{said}"
    );
    // What ffmpeg says is the error, and no file is left.
    fs::write(&program, "#!/bin/sh\necho 'no such encoder' >&2\nexit 1\n").expect("written");
    fs::remove_file(workplace.path("w.mp4")).expect("removed");
    let output = run(&args);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && said.contains("ffmpeg: no such encoder"),
        "{said}"
    );
    assert!(!workplace.path("w.mp4").exists());
}

#[test]
fn inversion_finds_latents_of_closer_reconstructions() {
    let workplace = workplace();
    let picture = [
        "reconstruct",
        "run",
        "a.png",
        "a.png",
        "--invert",
        "--plain",
        "--out",
        "p.png",
        "--json",
    ];
    let said = json(&workplace, &picture);
    assert_eq!(size(&workplace.path("p.png")), (row(2), row(3)));
    assert_eq!(said["inversion"]["n_steps"], 300);
    let number = |said: &Value, name: &str| said["inversion"][name].as_f64().expect("a number");
    for term in ["reconstruction", "loss"] {
        let before = number(&said, &format!("mean_{term}_before"));
        let after = number(&said, &format!("mean_{term}_after"));
        assert!(after < before, "{said}");
    }
    // Without the prior's term the two are the same.
    let out = ["--out", "p.npy"];
    let array = [
        &[
            "reconstruct",
            "run",
            "a.png",
            "--invert",
            "--invert-prior",
            "0",
            "--json",
        ],
        &out[..],
    ];
    let free = json(&workplace, &array.concat());
    let after = number(&free, "mean_reconstruction_after");
    assert!(after <= number(&said, "mean_reconstruction_after") + 1e-3);
    assert!((after - number(&free, "mean_loss_after")).abs() < 1e-6);

    let encode = |out: &str, extra: &[&str]| {
        let args = ["encode", "run", "a.png", "--device", "cpu", "--out", out];
        let output = workplace.vae(&[&args, extra].concat());
        assert!(output.status.success(), "{}", stderr(&output));
        let table = fs::read_to_string(workplace.path(out)).expect("a table");
        (table, stderr(&output))
    };
    let (encoded, _) = encode("encoded.csv", &[]);
    let (closer, said) = encode("closer.csv", &["--invert"]);
    assert!(
        encoded.starts_with("file,mean_0,mean_1,mean_2,log_var_0,"),
        "{encoded}"
    );
    assert!(
        closer.starts_with("file,mean_0,mean_1,mean_2\na.png,"),
        "{closer}"
    );
    assert!(
        said.contains("1 latents found in") && said.contains("mean −log p(x|z)"),
        "{said}"
    );
    let from_prior = ["--invert", "--invert-start", "prior", "--invert-steps", "5"];
    let by_seed = |seed| encode("z.csv", &[&from_prior[..], &["--seed", seed]].concat()).0;
    assert_eq!(by_seed("1"), by_seed("1"));
    assert_ne!(by_seed("1"), by_seed("2"));
    succeeds(
        &workplace,
        &[
            "decode",
            "run",
            "closer.csv",
            "--device",
            "cpu",
            "--out",
            "d.png",
        ],
    );

    let alone = workplace.vae(&[
        "reconstruct",
        "run",
        "--invert-steps",
        "5",
        "--out",
        "p.png",
    ]);
    assert_eq!(alone.status.code(), Some(2));
    assert!(stderr(&alone).contains("--invert"), "{}", stderr(&alone));
    let weight = [
        "reconstruct",
        "run",
        "--invert",
        "--invert-prior=-1",
        "--out",
        "p.png",
    ];
    let refused = workplace.vae(&weight);
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("found -1, expected a number from 0"));
}

#[test]
fn invalid_latents_and_dimensions_are_refused() {
    let workplace = workplace();
    fs::write(workplace.path("text.png"), "no image").expect("written");
    for (args, wanted) in [
        (
            &["interpolate", "run", "z:1,2", "prior:1"][..],
            "z: has 2 numbers, this model's latents have 3",
        ),
        (
            &["interpolate", "run", "test:20", "prior:1"],
            "there are 20 test images, the last one is test:19",
        ),
        (
            &["interpolate", "run", "nowhere.png", "prior:1"],
            "nowhere.png",
        ),
        (&["interpolate", "run", "text.png", "prior:1"], "text.png"),
        (
            &["interpolate", "run", "data", "prior:1"],
            "expected at most 1",
        ),
        (
            &["traverse", "run", "--dims", "3"],
            "no dimension 3, this model's are 0 to 2",
        ),
        (
            &["traverse", "run", "--dims", "1,1"],
            "a dimension is repeated",
        ),
        (
            &["manifold", "run", "--dims", "0,1,2"],
            "found 3 dimensions, at most 2 can be shown",
        ),
        (
            &["sample", "run", "--grid", "1x2", "--count", "3"],
            "has no room for 3 images",
        ),
        (
            &["sample", "run", "--temperature", "-1"],
            "--temperature -1",
        ),
        (
            &["plot", "run", "latents", "--dims", "0"],
            "found one dimension, a plane needs two",
        ),
        (
            &["plot", "run", "latents", "--label", "Smiling"],
            "not found; there are class=0",
        ),
    ] {
        let said = workplace.error(&[args, &["--out", "p.png"]].concat(), 1);
        assert!(said.contains(wanted), "{args:?}: {said}");
    }
    let moving = [
        "interpolate",
        "run",
        "prior:1",
        "prior:2",
        "--gif",
        "way.avi",
    ];
    let said = stderr(&workplace.vae(&moving));
    assert!(said.contains(".gif, .apng, .png or .mp4"), "{said}");
    // Refused by clap.
    for args in [
        &["interpolate", "run", "prior:1", "--out", "p.png"][..],
        &["interpolate", "run", "prior:1", "prior:2"],
        &["interpolate", "run", "z:a", "prior:2", "--out", "p.png"],
        &["arithmetic", "run", "a.png -", "--out", "p.png"],
        &["attribute", "run", "apply", "Smiling", "--out", "p.png"],
        &["sample", "run", "--grid", "2", "--out", "p.png"],
    ] {
        assert_eq!(workplace.vae(args).status.code(), Some(2), "{args:?}");
    }
    assert!(!workplace.path("p.png").exists() && !workplace.path("way.avi").exists());
}

#[test]
fn directions_of_classes_are_learned_kept_and_gone_along() {
    let workplace = workplace();
    let said = workplace.error(
        &["attribute", "run", "strip", "digit=3", "--out", "p.png"],
        1,
    );
    assert!(
        said.contains("attribute class=3: no direction in this run (none was learned yet)"),
        "{said}"
    );

    let report = json(
        &workplace,
        &["attribute", "run", "learn", "--all", "--json"],
    );
    let learned = report["attributes"].as_array().expect("a list");
    assert_eq!(learned.len(), 7);
    assert!(workplace.path("run/attributes.safetensors").is_file());
    for direction in learned {
        // 20 held-out images of seven classes: three of each but the last, of which there are two.
        let accuracy = &direction["accuracy"];
        let last = direction["name"] == "class=6";
        assert_eq!(
            accuracy["baseline"],
            if last { 0.9 } else { 0.85 },
            "{direction}"
        );
        assert_eq!(accuracy["n_images"], 20);
        assert!(accuracy["accuracy"].as_f64().expect("a share") <= 1.0);
    }

    // Directions that were not requested again are kept.
    let args = [
        "attribute",
        "run",
        "learn",
        "digit=3",
        "--method",
        "mean",
        "--orthogonal-to",
        "digit=1",
    ];
    let table = succeeds(&workplace, &args);
    assert!(
        table.contains("class=3") && table.contains("85.0 %"),
        "{table}"
    );
    for (args, wanted) in [
        (
            &["strip", "class=3,digit=1", "a.png", "test:4"][..],
            (row(7), row(4)),
        ),
        (
            &["strip", "digit=1", "--count", "3", "--steps", "5"],
            (row(5), row(3)),
        ),
        (
            &["apply", "digit=3=+2,class=1=-1", "--count", "2"],
            (row(2), row(2)),
        ),
        (
            &["apply", "digit=3=+2", "a.png", "--each", "each"],
            (row(1), row(2)),
        ),
    ] {
        succeeds(
            &workplace,
            &[&["attribute", "run"], args, &["--plain", "--out", "p.png"]].concat(),
        );
        assert_eq!(size(&workplace.path("p.png")), wanted, "{args:?}");
    }
    assert_eq!(size(&workplace.path("each/changed-0001.png")), (12, 12));

    for (args, wanted) in [
        (
            &["learn", "Smiling"][..],
            "attribute Smiling: not found; there are class=0",
        ),
        (&["learn", "digit=12"], "attribute class=12: "),
        (
            &["learn", "digit=3", "--orthogonal-to", "digit=3"],
            "nothing of its direction is left",
        ),
        (
            &["learn", "digit=3", "--attributes", "a.csv"],
            "this run's images are in idx files",
        ),
        (
            &["strip", "Smiling", "--out", "p.png"],
            "known are class=0, ",
        ),
    ] {
        let said = workplace.error(&[&["attribute", "run"], args].concat(), 1);
        assert!(said.contains(wanted), "{args:?}: {said}");
    }

    // Directions of other weights are invalid.
    let mut checkpoints: Vec<String> = fs::read_dir(workplace.path("run/checkpoints"))
        .expect("a folder")
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .into_string()
                .expect("UTF-8")
        })
        .filter(|name| name.starts_with("epoch-"))
        .collect();
    checkpoints.sort();
    let [first, second] = &checkpoints[..] else {
        panic!("two checkpoints: {checkpoints:?}");
    };
    let at = |name: &str| format!("run/checkpoints/{name}");
    succeeds(&workplace, &["attribute", &at(first), "learn", "digit=3"]);
    succeeds(
        &workplace,
        &[
            "attribute",
            &at(first),
            "strip",
            "digit=3",
            "--out",
            "p.png",
        ],
    );
    let said = workplace.error(
        &[
            "attribute",
            &at(second),
            "strip",
            "digit=3",
            "--out",
            "p.png",
        ],
        1,
    );
    assert!(said.contains(first) && said.contains(second), "{said}");

    fs::write(workplace.path("run/attributes.safetensors"), "cut short").expect("written");
    let said = workplace.error(
        &["attribute", "run", "strip", "digit=1", "--out", "p.png"],
        1,
    );
    assert!(said.contains("attributes.safetensors"), "{said}");
}

#[test]
fn directions_of_a_table_are_learned_by_file_name() {
    let workplace = Workplace::new();
    fs::create_dir(workplace.path("photos")).expect("created");
    let mut table = "file,bright,age\n".to_owned();
    for i in 0..120_u32 {
        let is_bright = i % 3 == 0;
        let level = if is_bright { 200 } else { 40 } + (i * 7 % 31) as u8;
        let photo = GrayImage::from_fn(16, 16, |x, y| Luma([level + ((x * y + i) % 13) as u8]));
        photo
            .save(workplace.path(&format!("photos/{i:03}.png")))
            .expect("written");
        table += &format!("{i:03}.png,{},{}\n", u8::from(is_bright), 20 + i);
    }
    fs::write(workplace.path("table.csv"), table).expect("written");
    fs::write(
        workplace.path("small.toml"),
        // Long enough to learn brightness. There is no validation, because a few images would select an epoch by
        // chance.
        "[dataset]\nvalidation = 0\n[dataset.image_folder]\npath = 'photos'\nimage_size = 12\n\
         grayscale = true\n[model.network.mlp]\nhidden = [16]\n[training]\nepochs = 30\nbatch_size = 16\n",
    )
    .expect("written");
    workplace.train(&[], "run");
    let said = workplace.error(&["attribute", "run", "learn", "bright"], 1);
    assert!(said.contains("--attributes FILE"), "{said}");
    let learn = ["attribute", "run", "learn", "--attributes", "table.csv"];
    let report = json(&workplace, &[&learn[..], &["bright", "--json"]].concat());
    // The images differ in brightness only, so any information about it distinguishes them.
    let accuracy = &report["attributes"][0]["accuracy"];
    let share = |key: &str| accuracy[key].as_f64().expect("a share");
    assert!(share("accuracy") > share("baseline"), "{report}");
    let said = workplace.error(&[&learn[..], &["age"]].concat(), 1);
    assert!(said.contains("attribute age: found 2"), "{said}");
    let all = json(&workplace, &[&learn[..], &["--all", "--json"]].concat());
    assert_eq!(all["attributes"].as_array().map(Vec::len), Some(1));
    let args = [
        "attribute",
        "run",
        "strip",
        "bright",
        "photos/000.png",
        "--plain",
        "--out",
        "p.png",
    ];
    succeeds(&workplace, &args);
    // On average brighter to the right.
    let strip = image::open(workplace.path("p.png"))
        .expect("a picture")
        .into_luma8();
    let mean = |column: u32| -> u32 {
        let start = column * (SIDE as u32 + 2);
        let pixels = (start..start + 12).flat_map(|x| (0..12).map(move |y| (x, y)));
        pixels
            .map(|(x, y)| u32::from(strip.get_pixel(x, y).0[0]))
            .sum()
    };
    assert!(mean(6) > mean(0), "{} {}", mean(6), mean(0));
}

#[test]
fn plots_of_the_latent_space_are_written() {
    let workplace = workplace();
    for args in [
        &["latents"][..],
        &["latents", "--density"],
        &[
            "latents", "--label", "digit=3", "--dims", "2,0", "--limit", "10",
        ],
        &["dimensions"],
        &["kl"],
    ] {
        let report = json(
            &workplace,
            &[&["plot", "run"], args, &["--out", "p.png", "--json"]].concat(),
        );
        assert_eq!(
            (&report["width"], &report["height"]),
            (&1400.into(), &900.into())
        );
        assert_eq!(size(&workplace.path("p.png")), (1400, 900), "{args:?}");
    }
    succeeds(
        &workplace,
        &["plot", "run", "projector", "--out", "projector"],
    );
    let read = |name: &str| fs::read_to_string(workplace.path(&format!("projector/{name}")));
    assert_eq!(read("tensors.tsv").expect("vectors").lines().count(), 20);
    let metadata = read("metadata.tsv").expect("labels");
    assert!(metadata.starts_with("0\n1\n2\n"), "{metadata}");
    assert!(
        read("projector_config.pbtxt")
            .expect("a config")
            .contains("sprite.png")
    );
    assert_eq!(size(&workplace.path("projector/sprite.png")), (60, 48));
    let said = workplace.error(&["plot", "run", "projector", "--out", "projector"], 1);
    assert!(said.contains("already exists"), "{said}");
}
