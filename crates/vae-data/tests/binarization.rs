//! Binarized data sets: in memory, in a pack and from files.

use image::{Rgb, RgbImage};
use tch::{Device, Kind, Tensor};
use tempfile::TempDir;
use vae_data::loader::{Batches, shuffled_order};
use vae_data::{Binarization, Dataset, DatasetConfig, Splits};

const DYNAMIC: Option<Binarization> = Some(Binarization::Dynamic);

/// Images u8 [n, 1, 4, 5] whose bytes are multiples of 5 below 256.
fn gray(n: i64) -> Dataset {
    let bytes: Vec<u8> = (0..20 * n).map(|i| (5 * (i % 52)) as u8).collect();
    let images = Tensor::from_slice(&bytes).view([n, 1, 4, 5]);
    Dataset::new(images, None).expect("a data set")
}

fn bytes(images: &Tensor) -> Vec<u8> {
    Vec::try_from(images.flatten(0, -1)).expect("bytes")
}

fn images(batches: Batches) -> Vec<Vec<u8>> {
    batches
        .flat_map(|batch| {
            let batch = batch.expect("a batch").items;
            (0..batch.size()[0])
                .map(|i| bytes(&batch.get(i)))
                .collect::<Vec<_>>()
        })
        .collect()
}

/// The images of a training epoch, ordered by position in the data set.
fn epoch(dataset: &Dataset, batch_size: usize, seed: u64, epoch: u64) -> Vec<Vec<u8>> {
    let pass = Batches::shuffled(dataset, batch_size, Device::Cpu, seed, epoch);
    let mut found = vec![Vec::new(); dataset.len()];
    for (image, position) in images(pass).into_iter().zip(order(dataset, seed, epoch)) {
        found[position] = image;
    }
    found
}

fn order(dataset: &Dataset, seed: u64, epoch: u64) -> Vec<usize> {
    let order = shuffled_order(dataset.len(), seed, epoch);
    order.into_iter().map(|image| image as usize).collect()
}

/// The laws that hold for every kind of storage.
fn check_laws(plain: &Dataset, binarized: &Dataset) {
    let first = epoch(binarized, 7, 1, 1);
    assert_eq!(epoch(binarized, 7, 1, 1), first);
    assert_eq!(
        epoch(binarized, 32, 1, 1),
        first,
        "the batch size has no effect"
    );
    assert_ne!(epoch(binarized, 7, 1, 2), first);
    assert_ne!(epoch(binarized, 7, 2, 1), first);

    let whole = images(Batches::shuffled(binarized, 3, Device::Cpu, 1, 1));
    for n_skipped in [1, 4] {
        let rest: Vec<_> = Batches::shuffled(binarized, 3, Device::Cpu, 1, 1)
            .skip(n_skipped)
            .map(|batch| bytes(&batch.expect("a batch").items))
            .collect();
        assert_eq!(rest.concat(), whole[3 * n_skipped..].concat());
        let mut pass = Batches::shuffled(binarized, 3, Device::Cpu, 1, 1);
        assert!(pass.next().is_some(), "batches are under way");
        let next = pass.nth(n_skipped).expect("a batch").expect("images");
        let start = 3 * (1 + n_skipped);
        assert_eq!(bytes(&next.items), whole[start..start + 3].concat());
    }

    let held_out = images(Batches::sequential(binarized, 3, Device::Cpu));
    assert_eq!(
        images(Batches::sequential(binarized, 8, Device::Cpu)),
        held_out
    );
    let all = binarized.first(binarized.len()).expect("images");
    assert_eq!(bytes(&all), held_out.concat());
    let two = binarized.select(&[4, 2]).expect("images");
    assert_eq!(bytes(&two), [&held_out[4][..], &held_out[2]].concat());
    assert_ne!(first, held_out);

    let gray = bytes(&plain.first(plain.len()).expect("images"));
    for seen in [first.concat(), held_out.concat()] {
        assert_eq!(seen.len(), gray.len());
        for (&seen, &gray) in seen.iter().zip(&gray) {
            assert!(seen == 0 || seen == 255);
            assert!(seen == gray || !matches!(gray, 0 | 255));
        }
    }
    assert_eq!(
        binarized.fingerprint().expect("images"),
        plain.fingerprint().expect("images"),
        "that of the bytes as they are stored"
    );
}

#[test]
fn images_in_memory_follow_the_laws() {
    check_laws(&gray(20), &gray(20).with_binarization(DYNAMIC));
    // Several channels, and not contiguous.
    let color = || {
        let images = gray(60).first(60).expect("images").view([3, 20, 4, 5]);
        Dataset::new(images.transpose(0, 1), None).expect("a data set")
    };
    check_laws(&color(), &color().with_binarization(DYNAMIC));
}

#[test]
fn images_of_packs_and_files_follow_the_laws_and_are_the_same() {
    let folder = TempDir::new().expect("a folder");
    let photos = folder.path().join("photos");
    std::fs::create_dir(&photos).expect("created");
    for i in 0..40_u8 {
        let photo = RgbImage::from_fn(8, 8, |x, y| Rgb([32 * x as u8, 36 * y as u8, 5 * i]));
        photo
            .save(photos.join(format!("{i:02}.png")))
            .expect("saved");
    }
    let load = |binarization: &str, more: &str| -> Splits {
        let text = format!(
            "{binarization}\nvalidation = 0.2\n[image_folder]\npath = '{}'\nimage_size = 8\n{more}\n\
             split = {{ test_fraction = 0.3 }}",
            photos.display()
        );
        let config: DatasetConfig = toml::from_str(&text).expect("a config");
        config.load().expect("a data set")
    };
    for colors in ["", "grayscale = true"] {
        let plain = load("", colors);
        let packed = load("binarization = 'dynamic'", colors);
        let files = load(
            "binarization = 'dynamic'",
            &format!("{colors}\npack = false\nworkers = 3"),
        );
        check_laws(&plain.train, &packed.train);
        check_laws(&plain.train, &files.train);
        assert_eq!(epoch(&packed.train, 7, 1, 1), epoch(&files.train, 7, 1, 1));
        let copy = plain.train.first(99).expect("images");
        let copy = Dataset::new(copy, None).expect("a data set");
        let copy = copy.with_binarization(DYNAMIC);
        assert_eq!(epoch(&packed.train, 7, 1, 1), epoch(&copy, 7, 1, 1));
        for split in [&packed.test, packed.validation.as_ref().expect("some")] {
            assert_eq!(split.binarization(), DYNAMIC);
        }

        let flipped = load(
            "binarization = 'dynamic'",
            &format!("{colors}\nrandom_flip = true"),
        );
        let seen = epoch(&flipped.train, 7, 1, 1);
        assert!(seen.concat().iter().all(|&byte| byte == 0 || byte == 255));
        let unflipped = epoch(&packed.train, 7, 1, 1);
        let n_equal = seen.iter().zip(&unflipped).filter(|(a, b)| a == b).count();
        assert!(
            0 < n_equal && n_equal < seen.len(),
            "{n_equal}: images that are not mirrored keep their draws"
        );
    }
}

#[test]
fn a_subset_stays_binarized() {
    let subset = gray(6).with_binarization(DYNAMIC).subset(&[3, 1]);
    assert_eq!(subset.binarization(), DYNAMIC);
    let images = subset.first(2).expect("images");
    assert_eq!(images.size(), [2, 1, 4, 5]);
    assert!(bytes(&images).iter().all(|&byte| byte == 0 || byte == 255));
}

#[test]
fn without_binarization_bytes_stay() {
    let dataset = gray(6).with_binarization(None);
    assert_eq!(
        images(Batches::sequential(&dataset, 4, Device::Cpu)).concat(),
        bytes(&gray(6).first(6).expect("images"))
    );
    assert_eq!(dataset.first(0).expect("none").kind(), Kind::Uint8);
}
