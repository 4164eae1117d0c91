//! Encoding, decoding, scoring and searching images with files of every format.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use crate::common::{SIDE, Workplace, stderr, stdout};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;

/// A workplace with a trained run named `run`.
fn trained() -> Workplace {
    let workplace = Workplace::new();
    workplace.train(&["--epochs", "1"], "run");
    workplace
}

fn succeeds(workplace: &Workplace, args: &[&str]) -> String {
    let output = workplace.vae(&[args, &["--device", "cpu"]].concat());
    assert!(output.status.success(), "{args:?}: {}", stderr(&output));
    stdout(&output)
}

fn json(workplace: &Workplace, args: &[&str]) -> Value {
    serde_json::from_str(&succeeds(workplace, &[args, &["--json"]].concat())).expect("JSON")
}

/// The header and the rows of a CSV file.
fn csv(path: &Path) -> (Vec<String>, Vec<Vec<String>>) {
    let mut reader = csv::Reader::from_path(path).expect("a file");
    let strings = |record: &csv::StringRecord| record.iter().map(str::to_owned).collect();
    let header = strings(reader.headers().expect("a header"));
    let rows = reader
        .records()
        .map(|record| strings(&record.expect("a row")));
    (header, rows.collect())
}

#[test]
fn every_format_holds_the_same_latents() {
    let workplace = trained();
    let formats = ["csv", "npy", "parquet", "safetensors"];
    for format in formats {
        let out = format!("latents.{format}");
        let said = succeeds(&workplace, &["encode", "run", "--out", &out]);
        assert_eq!(said.trim_end(), out);
        // Decoding any of these files gives the same picture.
        let picture = format!("{format}.png");
        succeeds(&workplace, &["decode", "run", &out, "--out", &picture]);
    }
    let (header, rows) = csv(&workplace.path("latents.csv"));
    let wanted = [
        "file",
        "mean_0",
        "mean_1",
        "log_var_0",
        "log_var_1",
        "label",
    ];
    assert_eq!(header, wanted);
    assert_eq!(rows.len(), 20);
    assert_eq!(rows[9][0], "data/t10k-images-idx3-ubyte#9");
    assert_eq!(rows[9][5], "2"); // Labels repeat from 0 to 6.

    let pictures = formats
        .map(|format| fs::read(workplace.path(&format!("{format}.png"))).expect("a picture"));
    assert!(pictures.iter().all(|picture| *picture == pictures[0]));

    let npy = fs::read(workplace.path("latents.npy")).expect("bytes");
    assert_eq!(npy.len(), 128 + 20 * 2 * 4);
    let head = String::from_utf8_lossy(&npy[10..128]).into_owned();
    assert!(
        head.contains("'descr': '<f4'") && head.contains("'shape': (20, 2)"),
        "{head}"
    );
    let first = f32::from_le_bytes(npy[128..132].try_into().expect("four bytes"));
    assert_eq!(first.to_string(), rows[0][1]);

    let tensors = fs::read(workplace.path("latents.safetensors")).expect("bytes");
    let tensors = safetensors::SafeTensors::deserialize(&tensors).expect("safetensors");
    assert_eq!(tensors.tensor("mean").expect("mean").shape(), [20, 2]);
    assert_eq!(tensors.tensor("mean").expect("mean").data(), &npy[128..]);
    let names = tensors.tensor("file").expect("file").data();
    let names = String::from_utf8_lossy(names).into_owned();
    assert_eq!(
        names.lines().nth(9),
        Some("\"data/t10k-images-idx3-ubyte#9\"")
    );
    let labels = tensors.tensor("label").expect("label").data();
    assert_eq!(labels[8..16], 1_i64.to_le_bytes());
}

#[test]
fn inputs_of_every_kind_have_the_same_latents() {
    let workplace = trained();
    let encode = |args: &[&str], out: &str| {
        succeeds(
            &workplace,
            &[&["encode", "run", "--out", out], args].concat(),
        );
        csv(&workplace.path(out)).1
    };
    let held_out = encode(&[], "held-out.csv");
    let file = "data/t10k-images-idx3-ubyte";
    assert_eq!(encode(&[file], "file.csv"), held_out);
    // Another batch size may round the last digit differently.
    let part = encode(&[&format!("{file}#5..8")], "part.csv");
    assert_eq!(part.len(), 3);
    for (row, wanted) in part.iter().zip(&held_out[5..8]) {
        assert_eq!((&row[0], &row[5]), (&wanted[0], &wanted[5]));
        for (found, wanted) in row[1..5].iter().zip(&wanted[1..5]) {
            let number = |text: &str| text.parse::<f32>().expect("a number");
            assert!((number(found) - number(wanted)).abs() < 1e-5, "{row:?}");
        }
    }

    let bytes = fs::read(workplace.path(file)).expect("bytes");
    let zipped = File::create(workplace.path("images.idx3.gz")).expect("created");
    let mut encoder = GzEncoder::new(zipped, Compression::fast());
    encoder.write_all(&bytes).expect("written");
    encoder.finish().expect("written");
    let numbers = |rows: &[Vec<String>]| -> Vec<Vec<String>> {
        rows.iter().map(|row| row[1..5].to_vec()).collect()
    };
    let zipped = encode(&["images.idx3.gz"], "gz.csv");
    assert_eq!(numbers(&zipped), numbers(&held_out));

    // The same pixels as PNG files, in a folder and in a zip.
    fs::create_dir(workplace.path("pngs")).expect("created");
    let archive = File::create(workplace.path("pngs.zip")).expect("created");
    let mut archive = zip::ZipWriter::new(archive);
    for (i, pixels) in bytes[16..].chunks_exact(SIDE * SIDE).enumerate() {
        let name = format!("{i:02}.png");
        let path = workplace.path("pngs").join(&name);
        let side = SIDE as u32;
        image::GrayImage::from_raw(side, side, pixels.to_vec())
            .expect("an image")
            .save(&path)
            .expect("written");
        let options = zip::write::SimpleFileOptions::default();
        archive.start_file(&name, options).expect("started");
        archive
            .write_all(&fs::read(path).expect("bytes"))
            .expect("written");
    }
    archive.finish().expect("written");
    for (input, out) in [("pngs", "folder.csv"), ("pngs.zip", "zip.csv")] {
        let rows = encode(&[input], out);
        assert_eq!(rows[3][0], "03.png");
        assert_eq!(numbers(&rows), numbers(&held_out), "{input}");
    }

    // A table of attributes; images without a row have empty cells.
    fs::write(
        workplace.path("people.csv"),
        "file,age,mean_0\n02.png,31.5,7\n",
    )
    .expect("written");
    let args = ["pngs", "--attributes", "people.csv"];
    let rows = encode(&args, "people-out.csv");
    let (header, _) = csv(&workplace.path("people-out.csv"));
    assert_eq!(header[5..], ["age", "attribute_mean_0"]);
    assert_eq!(rows[2][5..], ["31.5", "7"]);
    assert_eq!(rows[3][5..], ["", ""]);

    // The folder of a checkpoint is accepted as RUN, too.
    let checkpoint = ["encode", "run/checkpoints/best", "--out", "best.csv"];
    succeeds(&workplace, &checkpoint);
    assert_eq!(csv(&workplace.path("best.csv")).1, held_out);
}

#[test]
fn decoded_images_are_named_and_encode_to_the_same_place() {
    let workplace = trained();
    for format in ["csv", "npy", "parquet", "safetensors"] {
        let (table, out) = (format!("a.{format}"), format!("images-{format}"));
        succeeds(&workplace, &["encode", "run", "--out", &table]);
        let said = json(&workplace, &["decode", "run", &table, "--out", &out]);
        assert_eq!(said["n_images"], 20);
        let name = match format {
            "npy" => "00000007.png",
            _ => "t10k-images-idx3-ubyte#7.png",
        };
        let found = image::image_dimensions(workplace.path(&out).join(name)).expect("a picture");
        assert_eq!(found, (SIDE as u32, SIDE as u32));
        let again = json(&workplace, &["encode", "run", &out, "--out", "again.csv"]);
        assert_eq!(again["n_images"], 20);
        let said = workplace.error(
            &["decode", "run", &table, "--out", &out, "--device", "cpu"],
            1,
        );
        assert!(said.contains("already exists"), "{said}");
    }
}

#[test]
fn tables_of_other_programs_are_decoded_and_wrong_ones_named() {
    let workplace = trained();
    let write = |name: &str, text: &str| fs::write(workplace.path(name), text).expect("written");
    write("plain.csv", ",z0,z1\n0,0.5,-1\n1,1e-3,2\n");
    let said = json(
        &workplace,
        &["decode", "run", "plain.csv", "--out", "plain.png"],
    );
    assert_eq!(said["n_images"], 2);

    let fails = |latents: &str| {
        let args = [
            "decode", "run", latents, "--out", "x.png", "--device", "cpu",
        ];
        let said = workplace.error(&args, 1);
        assert!(!workplace.path("x.png").exists());
        said
    };
    write("three.csv", "a,b,c\n1,2,3\n");
    let said = fails("three.csv");
    assert!(
        said.contains("three.csv: latents of 3 numbers, but the model has 2"),
        "{said}"
    );
    write("word.csv", "a,b\n1,2\n1,two\n");
    let said = fails("word.csv");
    assert!(
        said.contains("word.csv: line 3: b is `two`, expected a number"),
        "{said}"
    );
    write("nan.csv", "a,b\n1,NaN\n");
    assert!(fails("nan.csv").contains("nan.csv: found NaN in dimension 1"));
    write("bare.csv", "1,2\n3,4\n");
    assert!(fails("bare.csv").contains("expected a header"));
    write("empty.csv", "a,b\n");
    assert!(fails("empty.csv").contains("holds no latents"));
    for name in ["no.npy", "no.parquet", "no.safetensors"] {
        write(name, "this is none of them, whatever it is called");
        let said = fails(name);
        let is_named = said.contains(&format!("{name}: is ")) && said.contains(" not ");
        assert!(is_named, "{said}");
    }
    assert!(fails("latents.txt").contains("its name must end in .csv, .npy"));
    assert!(fails("nowhere.npy").contains("nowhere.npy"));

    succeeds(&workplace, &["encode", "run", "--out", "a.npy"]);
    let bytes = fs::read(workplace.path("a.npy")).expect("bytes");
    fs::write(workplace.path("short.npy"), &bytes[..bytes.len() - 1]).expect("written");
    let said = fails("short.npy");
    assert!(
        said.contains("159 bytes of numbers, expected 160"),
        "{said}"
    );
}

#[test]
fn what_cannot_be_encoded_is_one_error_and_leaves_no_file() {
    let workplace = trained();
    fs::create_dir(workplace.path("mixed")).expect("created");
    let good = image::GrayImage::new(SIDE as u32, SIDE as u32);
    good.save(workplace.path("mixed/good.png"))
        .expect("written");
    fs::write(workplace.path("mixed/bad.jpg"), b"\xff\xd8\xff nothing").expect("written");
    let fails = |inputs: &[&str], out: &str| {
        let args = [&["encode", "run", "--out", out, "--device", "cpu"], inputs].concat();
        let said = workplace.error(&args, 1);
        assert!(!workplace.path(out).exists());
        said
    };
    let said = fails(&["mixed/good.png", "mixed/bad.jpg"], "x.csv");
    assert!(said.contains("mixed/bad.jpg: is a broken JPEG"), "{said}");
    assert!(fails(&["none.png"], "x.csv").contains("none.png: cannot be read"));
    assert!(fails(&[], "x.txt").contains("x.txt: its name must end in"));
    assert!(fails(&[], "nowhere/x.csv").contains("nowhere"));
    let leftovers = fs::read_dir(workplace.path("")).expect("a folder");
    let hidden = |name: &str| name.starts_with(".tmp");
    assert!(
        !leftovers
            .flatten()
            .any(|file| hidden(&file.file_name().to_string_lossy()))
    );

    let said = json(&workplace, &["encode", "run", "mixed", "--out", "x.csv"]);
    assert_eq!(
        (&said["n_images"], &said["n_bad_files"]),
        (&1.into(), &1.into())
    );
    let args = [
        "encode",
        "run/checkpoints/best",
        "--checkpoint",
        "last",
        "--out",
        "y.csv",
    ];
    assert!(
        workplace
            .error(&args, 1)
            .contains("holds the weights of one checkpoint")
    );
}

#[test]
fn scores_are_the_elbo_or_the_bound_and_the_worst_are_drawn() {
    let workplace = trained();
    let score = |args: &[&str], out: &str| {
        json(
            &workplace,
            &[&["score", "run", "--out", out], args].concat(),
        )
    };
    let said = score(
        &["--picture", "worst.png", "--count", "4", "--plain"],
        "elbo.csv",
    );
    let (header, rows) = csv(&workplace.path("elbo.csv"));
    assert_eq!(header, ["file", "score", "reconstruction", "kl", "label"]);
    let number = |text: &str| text.parse::<f64>().expect("a number");
    for row in &rows {
        let sum = number(&row[2]) + number(&row[3]);
        assert!((number(&row[1]) - sum).abs() < 1e-3, "{row:?}");
    }
    let mut sorted: Vec<_> = rows.iter().map(|row| number(&row[1])).collect();
    sorted.sort_by(|a, b| b.total_cmp(a));
    let worst = said["least_likely"].as_array().expect("a list");
    assert_eq!(worst.len(), 4);
    for (worst, wanted) in worst.iter().zip(sorted) {
        let found = worst["score"].as_f64().expect("a number");
        assert!((found - wanted).abs() < 1e-3, "{found}, {wanted}");
    }
    let side = 2 * SIDE as u32 + 2;
    let size = image::image_dimensions(workplace.path("worst.png")).expect("a picture");
    assert_eq!(size, (side, side));
    let again = score(&[], "again.csv");
    assert_eq!(csv(&workplace.path("again.csv")).1, rows);
    assert_eq!(again["mean_score"], said["mean_score"]);
    assert_ne!(
        score(&["--seed", "1"], "other.csv")["mean_score"],
        said["mean_score"]
    );

    // More samples only lower the bound of −log p(x), in expectation.
    let bound = score(&["--samples", "200"], "bound.parquet");
    let mean = |said: &Value| said["mean_score"].as_f64().expect("a number");
    assert!(mean(&bound) < mean(&said), "{bound}");
    score(&[], "scores.npy");
    let npy = fs::read(workplace.path("scores.npy")).expect("bytes");
    assert!(String::from_utf8_lossy(&npy[..128]).contains("'shape': (20,)"));
}

#[test]
fn neighbors_are_by_distance_without_the_image_itself() {
    let workplace = trained();
    let image = "data/train-images-idx3-ubyte#3";
    let args = [
        "neighbors",
        "run",
        image,
        "--count",
        "5",
        "--plain",
        "--out",
        "near.png",
    ];
    let said = json(&workplace, &args);
    let found = said["neighbors"].as_array().expect("a list");
    assert_eq!(found.len(), 5);
    let distances: Vec<_> = found
        .iter()
        .map(|near| near["distance"].as_f64().expect("a number"))
        .collect();
    assert!(
        distances[0] < 1e-5 && distances.is_sorted(),
        "{distances:?}"
    );
    // Images repeat after seven: another one with the same pixels is a neighbor, the image itself is not.
    assert_eq!(found[0]["file"], "data/train-images-idx3-ubyte#10");
    assert!(found.iter().all(|near| near["file"] != image));
    assert_eq!(found[0]["class"], found[0]["label"].to_string());
    let side = SIDE as u32;
    let size = image::image_dimensions(workplace.path("near.png")).expect("a picture");
    assert_eq!(size, (6 * side + 10, side));

    let among = [
        "neighbors",
        "run",
        image,
        "--among",
        "data/t10k-images-idx3-ubyte",
    ];
    let table = succeeds(&workplace, &among);
    assert!(
        table.contains("distance") && table.contains("t10k-images-idx3-ubyte#3"),
        "{table}"
    );
    let two = [
        "neighbors",
        "run",
        "data/train-images-idx3-ubyte",
        "--device",
        "cpu",
    ];
    assert!(
        workplace
            .error(&two, 1)
            .contains("84 images, expected at most 1")
    );
}
