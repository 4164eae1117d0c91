//! The order of the images in an epoch, and its batches.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use tch::{Device, Kind, Tensor};
use vae_base::seed::{choice, flips};
use vae_base::{MelodySpec, Portion, derive_seed};

pub use crate::batch::Batch;

use crate::binarization::PixelDraws;
use crate::dataset::Images;
use crate::pipeline::Pipeline;
use crate::stored::{StoreReader, StoredImages, mirror};
use crate::{Binarization, DataError, Dataset, ImageShape};

/// The image indices 0 to `n_images` − 1, shuffled for `epoch` of the run with this `seed`.
///
/// The algorithm must never change, on any platform, because a run resumed in the middle of an epoch continues in
/// this order: a ChaCha8 stream whose 256-bit key is [`derive_seed`]`(seed, epoch, "order")` as 8 little-endian bytes
/// followed by zeros (nonce 0) gives u64 numbers; for i from `n_images` − 1 down to 1, index i is swapped with an
/// index drawn uniformly from 0 to i (Fisher & Yates; bounded without bias as in Lemire 2019).
///
/// ```
/// let mut order = vae_data::loader::shuffled_order(5, 1, 0);
/// assert_ne!(order, vae_data::loader::shuffled_order(5, 1, 1));
/// order.sort();
/// assert_eq!(order, [0, 1, 2, 3, 4]);
/// ```
pub fn shuffled_order(n_images: usize, seed: u64, epoch: u64) -> Vec<i64> {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&derive_seed(seed, epoch, "order").to_le_bytes());
    let mut rng = ChaCha8Rng::from_seed(key);

    let mut order: Vec<i64> = (0..n_images as i64).collect();
    for i in (1..n_images).rev() {
        let j = uniform_below(i as u64 + 1, || rng.next_u64());
        order.swap(i, j as usize);
    }
    order
}

/// A uniform number below `bound` (> 0) from uniform u64 numbers: Lemire 2019, algorithm 5. The number is the high
/// half of draw · bound; the few draws whose low half would cause a bias are redrawn.
fn uniform_below(bound: u64, mut draw: impl FnMut() -> u64) -> u64 {
    let lowest_fair = bound.wrapping_neg() % bound;
    loop {
        let product = u128::from(draw()) * u128::from(bound);
        if product as u64 >= lowest_fair {
            return (product >> 64) as u64;
        }
    }
}

/// The number of batches of `n_images`, including the last, smaller one.
///
/// # Panics
/// If `batch_size` is 0.
pub fn n_batches(n_images: usize, batch_size: usize) -> usize {
    n_images.div_ceil(batch_size)
}

/// One pass over a data set: [`Batch`]es on a device, with every image exactly once. The last batch is smaller if the
/// batch size does not divide the number of images.
///
/// Each batch is a copy. Images in memory are copied on request. Images of a pack or of files are read ahead by
/// threads, which keep eight batches ready (with more threads, one each) and end with this iterator. Use
/// [`Iterator::skip`] to continue in the middle of an epoch: skipping batches costs nothing, and the batches that
/// follow are those of the whole pass, including their random flips and binarization.
///
/// An item is an error if a file of a data set without a pack can no longer be decoded.
#[derive(Debug)]
pub struct Batches<'a> {
    dataset: &'a Dataset,
    order: Order,
    /// The random draws of the binarization, if the data set is binarized.
    draws: Option<PixelDraws>,
    batch_size: usize,
    /// Which rows of a batch are read, and the number of rows of a part of a batch.
    portion: (Portion, usize),
    device: Device,
    /// Index of the next batch.
    next: usize,
    /// The threads that read stored images, started with the first batch.
    pipeline: Option<Pipeline<Result<Tensor, DataError>>>,
    waited: Duration,
}

#[derive(Debug)]
enum Order {
    Sequential,
    Shuffled {
        order: Vec<i64>,
        /// Determines which images are mirrored, if the data set has random flips.
        flip_seed: u64,
        /// Determines by how much each melody is moved.
        transposition_seed: u64,
    },
}

impl Order {
    /// The position in the data set of the `i`-th image of this order.
    fn position(&self, i: usize) -> usize {
        match self {
            Order::Sequential => i,
            Order::Shuffled { order, .. } => order[i] as usize,
        }
    }
}

impl<'a> Batches<'a> {
    /// Every image in the data set's own order, for evaluation. A binarized data set gives the same images in every
    /// such pass of every run.
    ///
    /// # Panics
    /// If `batch_size` is 0.
    pub fn sequential(dataset: &'a Dataset, batch_size: usize, device: Device) -> Batches<'a> {
        let draws = dataset.binarization().map(Binarization::fixed_draws);
        Batches::new(dataset, Order::Sequential, draws, batch_size, device)
    }

    /// Every image in the [`shuffled_order`] of `seed` and `epoch`, for training. Random flips, transposition and binarization of an
    /// item depend only on (`seed`, `epoch`, item).
    ///
    /// # Panics
    /// If `batch_size` is 0.
    pub fn shuffled(
        dataset: &'a Dataset,
        batch_size: usize,
        device: Device,
        seed: u64,
        epoch: u64,
    ) -> Batches<'a> {
        let order = Order::Shuffled {
            order: shuffled_order(dataset.len(), seed, epoch),
            flip_seed: derive_seed(seed, epoch, "flip"),
            transposition_seed: derive_seed(seed, epoch, "transposition"),
        };
        let draws = dataset
            .binarization()
            .map(|binarization| binarization.draws_of_epoch(seed, epoch));
        Batches::new(dataset, order, draws, batch_size, device)
    }

    fn new(
        dataset: &'a Dataset,
        order: Order,
        draws: Option<PixelDraws>,
        batch_size: usize,
        device: Device,
    ) -> Batches<'a> {
        assert!(batch_size > 0, "batch size 0, expected at least 1");
        Batches {
            dataset,
            order,
            draws,
            batch_size,
            portion: (Portion::WHOLE, batch_size),
            device,
            next: 0,
            pipeline: None,
            waited: Duration::ZERO,
        }
    }

    /// The batches from this one on. Those before cost nothing.
    #[must_use]
    pub fn starting_at(mut self, batch: usize) -> Self {
        self.next = batch;
        self
    }

    /// The same batches of which only the rows of one of several processes are read. Each part of `part` rows is shared by
    /// itself.
    #[must_use]
    pub fn portion(mut self, portion: Portion, part: usize) -> Self {
        self.portion = (portion, part);
        self
    }

    /// The total time of all calls of [`Iterator::next`] so far: the time in which training waited for data.
    pub fn waited(&self) -> Duration {
        self.waited
    }

    fn n_batches(&self) -> usize {
        n_batches(self.dataset.len(), self.batch_size)
    }

    fn n_left(&self) -> usize {
        self.n_batches().saturating_sub(self.next)
    }

    /// The places in the pass of the items of a batch that are read.
    fn read(&self, batch: usize) -> Vec<usize> {
        places(batch, self.batch_size, self.dataset.len(), self.portion)
    }

    /// Copies a batch of images in memory.
    fn copy_of_memory(&self, images: &Tensor, batch: usize) -> Tensor {
        let read = self.read(batch);
        let (batch, is_copy) = match &self.order {
            Order::Sequential if self.portion.0 == Portion::WHOLE => {
                let start = batch * self.batch_size;
                (images.narrow(0, start as i64, read.len() as i64), false)
            }
            _ => {
                let order: Vec<i64> = read
                    .iter()
                    .map(|&i| self.order.position(i) as i64)
                    .collect();
                let chosen = images.index_select(0, &Tensor::from_slice(&order));
                (self.transposed(chosen, &order), true)
            }
        };
        match &self.draws {
            Some(draws) => {
                let positions = read.iter().map(|&i| self.order.position(i) as u64);
                draws.binarized(&batch, positions).to_device(self.device)
            }
            // A copy even on the CPU: a view would let the model's in-place operations reach the data.
            None => batch.to_device_(self.device, images.kind(), false, !is_copy),
        }
    }

    /// The melodies at these positions as training sees them: each moved by a number of semitones that depends only on (seed,
    /// epoch, position), each number that keeps it on the keys of a piano as likely as another. Other items are unchanged.
    fn transposed(&self, items: Tensor, positions: &[i64]) -> Tensor {
        let most = i64::from(self.dataset.transposition());
        let Order::Shuffled {
            transposition_seed, ..
        } = self.order
        else {
            return items;
        };
        if most == 0 || self.dataset.item().melody.is_none() {
            return items;
        }
        let size = items.size();
        let mut tokens = vec![0_i64; items.numel()];
        items.copy_data(&mut tokens, items.numel());
        let n_steps = tokens.len() / positions.len().max(1);
        for (melody, &position) in tokens.chunks_exact_mut(n_steps.max(1)).zip(positions) {
            let pitches = || melody.iter().copied().filter(|&token| token >= 2);
            let (Some(lowest), Some(highest)) = (pitches().min(), pitches().max()) else {
                continue;
            };
            let down = most.min(lowest - 2);
            let up = most.min(MelodySpec::VOCABULARY - 1 - highest);
            let n = (down + up + 1) as u64;
            let semitones = choice(transposition_seed, position as u64, n) as i64 - down;
            MelodySpec::transpose(melody, semitones);
        }
        Tensor::from_slice(&tokens).view(size.as_slice())
    }

    /// Starts the threads that read the batches from `self.next` on.
    fn start(&self, images: &StoredImages) -> Pipeline<Result<Tensor, DataError>> {
        let (jobs, n_workers) = (self.next..self.n_batches(), images.store.n_workers());
        let visits: Arc<[Visit]> = (0..images.ids.len())
            .map(|i| {
                let position = self.order.position(i);
                let flip = match self.order {
                    Order::Sequential => false,
                    Order::Shuffled { flip_seed, .. } => {
                        images.random_flips && flips(flip_seed, position as u64)
                    }
                };
                Visit {
                    id: images.ids[position],
                    position: position as u64,
                    flip,
                }
            })
            .collect();
        let (shape, batch_size, device) = (self.dataset.shape(), self.batch_size, self.device);
        let portion = self.portion;
        Pipeline::start(jobs, n_workers, || {
            let mut reader = Arc::clone(&images.store).reader();
            let (visits, draws) = (Arc::clone(&visits), self.draws.clone());
            let mut bytes = Vec::new();
            move |batch| {
                let places = places(batch, batch_size, visits.len(), portion);
                let visits: Vec<Visit> = places.into_iter().map(|i| visits[i]).collect();
                read_batch(&mut *reader, &visits, draws.as_ref(), shape, &mut bytes)
                    .map(|batch| batch.to_device(device))
            }
        })
    }
}

/// One image of a pass.
#[derive(Clone, Copy, Debug)]
struct Visit {
    /// Its index in the store.
    id: usize,
    /// Its position in the data set.
    position: u64,
    /// Whether it is mirrored.
    flip: bool,
}

/// Reads images into u8 [B, C, H, W]; `bytes` is a reused buffer.
fn read_batch(
    reader: &mut dyn StoreReader,
    visits: &[Visit],
    draws: Option<&PixelDraws>,
    shape: ImageShape,
    bytes: &mut Vec<u8>,
) -> Result<Tensor, DataError> {
    let width = shape.width as usize;
    let n_bytes = (shape.channels * shape.height) as usize * width;
    bytes.resize(visits.len() * n_bytes, 0);
    for (visit, image) in visits.iter().zip(bytes.chunks_exact_mut(n_bytes)) {
        reader.read(visit.id, image)?;
        if visit.flip {
            mirror(image, width);
        }
        if let Some(draws) = draws {
            draws.binarize(visit.position, image);
        }
    }
    let size = [
        visits.len() as i64,
        shape.channels,
        shape.height,
        shape.width,
    ];
    Ok(Tensor::from_data_size(bytes, &size, Kind::Uint8))
}

/// The range of a batch's images: its first and the one after its last.
fn bounds(batch: usize, batch_size: usize, n_images: usize) -> (usize, usize) {
    let start = batch * batch_size;
    (start, n_images.min(start.saturating_add(batch_size)))
}

/// The places in a pass of the items of a batch that are read.
fn places(
    batch: usize,
    batch_size: usize,
    n_images: usize,
    (portion, part): (Portion, usize),
) -> Vec<usize> {
    let (start, end) = bounds(batch, batch_size, n_images);
    let rows = portion.computed_in_parts(end - start, part);
    rows.into_iter().map(|row| start + row).collect()
}

impl Batches<'_> {
    /// A batch of these items with their conditions and positions.
    fn complete(&self, batch: usize, items: Tensor) -> Batch {
        let (start, end) = bounds(batch, self.batch_size, self.dataset.len());
        let read = self.read(batch);
        let rows: Vec<usize> = read.into_iter().map(|i| self.order.position(i)).collect();
        let condition = self.dataset.condition().map(|condition| {
            let positions: Vec<i64> = rows.iter().map(|&row| row as i64).collect();
            let condition = condition.index_select(0, &Tensor::from_slice(&positions));
            condition.to_device(self.device)
        });
        Batch {
            items,
            condition,
            rows,
            n_items: end - start,
        }
    }
}

impl Iterator for Batches<'_> {
    type Item = Result<Batch, DataError>;

    fn next(&mut self) -> Option<Result<Batch, DataError>> {
        if self.n_left() == 0 {
            return None;
        }
        let start = Instant::now();
        let batch = match self.dataset.images() {
            Images::Memory(images) => Some(Ok(self.copy_of_memory(images, self.next))),
            Images::Stored(images) => {
                let mut pipeline = match self.pipeline.take() {
                    Some(pipeline) => pipeline,
                    None => self.start(images),
                };
                let batch = pipeline.next();
                self.pipeline = Some(pipeline);
                batch
            }
        };
        let number = self.next;
        self.next += 1;
        self.waited += start.elapsed();
        batch.map(|items| items.map(|items| self.complete(number, items)))
    }

    /// Skips `n` batches without reading an image. [`Iterator::skip`] uses it.
    fn nth(&mut self, n: usize) -> Option<Result<Batch, DataError>> {
        if n > 0 {
            self.next += n.min(self.n_left());
            self.pipeline = None; // It would return another batch; `next` starts a new one.
        }
        self.next()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.n_left(), Some(self.n_left()))
    }
}

impl ExactSizeIterator for Batches<'_> {}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;
    use proptest::test_runner::RngSeed;

    use vae_base::{ConditionSpec, ItemKind, ItemSpec};

    use super::*;

    /// Images of one pixel whose value is the image's index.
    fn numbered(n_images: u8) -> Dataset {
        let pixels: Vec<u8> = (0..n_images).collect();
        let images = Tensor::from_slice(&pixels).view([n_images.into(), 1, 1, 1]);
        Dataset::new(images, None).unwrap()
    }

    fn numbers(batch: Result<Batch, DataError>) -> Vec<i64> {
        Vec::<u8>::try_from(batch.unwrap().items.view(-1))
            .unwrap()
            .into_iter()
            .map(i64::from)
            .collect()
    }

    proptest! {
        // The same cases every time.
        #![proptest_config(ProptestConfig {
            rng_seed: RngSeed::Fixed(1),
            ..ProptestConfig::default()
        })]

        #[test]
        fn an_order_is_a_permutation(n in 0..3000_usize, seed: u64, epoch: u64) {
            let mut order = shuffled_order(n, seed, epoch);
            prop_assert_eq!(&order, &shuffled_order(n, seed, epoch));
            order.sort();
            prop_assert!(order.into_iter().eq(0..n as i64));
        }

        #[test]
        fn a_pass_gives_every_image_once_in_order(n: u8, batch_size in 1..300_usize, seed: u64) {
            let dataset = numbered(n);
            let n = usize::from(n);
            let sequential = Batches::sequential(&dataset, batch_size, Device::Cpu);
            let shuffled = Batches::shuffled(&dataset, batch_size, Device::Cpu, seed, 0);
            let orders = [(0..n as i64).collect(), shuffled_order(n, seed, 0)];
            for (batches, order) in [sequential, shuffled].into_iter().zip(orders) {
                prop_assert_eq!(batches.len(), n_batches(n, batch_size));
                let batches: Vec<_> = batches.map(numbers).collect();
                let wanted: Vec<_> = order.chunks(batch_size).map(<[i64]>::to_vec).collect();
                prop_assert_eq!(batches, wanted);
            }
        }

        #[test]
        fn skipping_leaves_the_rest_of_the_pass(n: u8, batch_size in 1..20_usize, k in 0..300_usize) {
            let dataset = numbered(n);
            let pass = || Batches::shuffled(&dataset, batch_size, Device::Cpu, 1, 2);
            let (batches, skipped) = (pass(), pass().skip(k));
            prop_assert_eq!(skipped.len(), batches.len().saturating_sub(k));
            let rest: Vec<_> = batches.map(numbers).collect();
            let skipped: Vec<_> = skipped.map(numbers).collect();
            prop_assert_eq!(&skipped, &rest[k.min(rest.len())..]);
        }
    }

    #[test]
    fn orders_never_change() {
        // From tests/reference_order.py. Other values would break resuming every earlier run.
        assert_eq!(
            shuffled_order(12, 0, 0),
            [7, 4, 1, 3, 0, 5, 11, 9, 10, 2, 6, 8]
        );
        assert_eq!(
            shuffled_order(12, 0, 1),
            [2, 10, 11, 1, 0, 3, 4, 9, 5, 7, 8, 6]
        );
        assert_eq!(
            shuffled_order(12, 1, 0),
            [4, 6, 9, 2, 0, 5, 11, 10, 3, 8, 7, 1]
        );
        let order = shuffled_order(60_000, 7, 3);
        assert_eq!(order[..4], [2565, 38510, 41180, 20138]);
        assert_eq!(order[59_996..], [13644, 23218, 4696, 25887]);
        let checksum: i64 = order
            .iter()
            .zip(0..)
            .map(|(image, position)| image * position)
            .sum();
        assert_eq!(checksum, 54_074_144_501_754);
    }

    #[test]
    fn every_permutation_is_equally_likely() {
        let mut counts = HashMap::new();
        for epoch in 0..24_000 {
            *counts.entry(shuffled_order(4, 1, epoch)).or_insert(0_i32) += 1;
        }
        assert_eq!(counts.len(), 24);
        // 1000 expected of each, with a standard deviation of √(24000 · 1/24 · 23/24) = 31.
        for (order, count) in counts {
            assert!(
                (count - 1000).abs() < 5 * 31,
                "{order:?} came {count} times"
            );
        }
    }

    #[test]
    fn a_draw_that_would_bias_is_redrawn() {
        // 2^64 = 3 · 6148914691236517205 + 1: one of the 2^64 draws must be rejected, and it is 0.
        let mut draws = [0, u64::MAX].into_iter();
        assert_eq!(uniform_below(3, || draws.next().unwrap()), 2);
        let mut draws = [1, u64::MAX].into_iter();
        assert_eq!(uniform_below(3, || draws.next().unwrap()), 0);
    }

    #[test]
    fn skipped_images_are_never_touched() {
        let dataset = numbered(2);
        // Image 99 does not exist: decoding the batch that contains it would panic.
        let order = Order::Shuffled {
            order: vec![99, 1],
            flip_seed: 0,
            transposition_seed: 0,
        };
        let mut batches = Batches::new(&dataset, order, None, 1, Device::Cpu).skip(1);
        assert_eq!(numbers(batches.next().unwrap()), [1]);
        assert!(batches.next().is_none());
    }

    #[test]
    fn a_condition_goes_with_its_image() {
        let spec = ConditionSpec {
            classes: ["0", "1", "2"].map(str::to_owned).to_vec(),
            attributes: vec![],
        };
        let pixels = Tensor::from_slice(&[0_u8, 1, 2, 3, 4]).view([5, 1, 1, 1]);
        // Class 7 is unknown to the model.
        let labels = Tensor::from_slice(&[0_i64, 2, 1, 7, 0]);
        let dataset = Dataset::new(pixels, Some(labels)).unwrap();
        let dataset = dataset.with_condition(&spec).subset(&[4, 3, 2, 1, 0]);
        let class_of_image = [Some(0), Some(2), Some(1), None, Some(0)];
        for batch in Batches::shuffled(&dataset, 2, Device::Cpu, 3, 1) {
            let batch = batch.unwrap();
            let condition = batch.condition.unwrap();
            assert_eq!(condition.size(), [batch.rows.len() as i64, 3]);
            for (i, &row) in batch.rows.iter().enumerate() {
                let image = batch.items.int64_value(&[i as i64, 0, 0, 0]) as usize;
                assert_eq!(image, 4 - row);
                let found = Vec::<f32>::try_from(condition.get(i as i64)).unwrap();
                match class_of_image[image] {
                    Some(class) => {
                        assert!((0..3).all(|c| found[c] == f32::from(u8::from(c == class))))
                    }
                    None => assert!(found.iter().all(|value| value.is_nan())),
                }
            }
        }
    }

    #[test]
    fn an_image_gets_the_draws_of_its_position() {
        let images = Tensor::full([9, 1, 4, 5], 128, (Kind::Uint8, Device::Cpu));
        let dataset = Dataset::new(images, None).unwrap();
        let dataset = dataset.with_binarization(Some(Binarization::Dynamic));
        let order = shuffled_order(9, 3, 2);
        let draws = Binarization::Dynamic.draws_of_epoch(3, 2);
        for (i, batch) in Batches::shuffled(&dataset, 1, Device::Cpu, 3, 2).enumerate() {
            let mut wanted = [128; 20];
            draws.binarize(order[i] as u64, &mut wanted);
            assert_eq!(numbers(batch), wanted.map(i64::from));
        }
    }

    #[test]
    fn changing_a_batch_leaves_the_data_set_alone() {
        let dataset = numbered(4);
        let before = dataset.first(4).unwrap();
        for batch in Batches::sequential(&dataset, 3, Device::Cpu) {
            let _ = batch.unwrap().items.fill_(9);
        }
        assert_eq!(dataset.first(4).unwrap(), before);
    }

    #[test]
    fn a_batch_has_the_images_shape_and_kind() {
        let images = Tensor::zeros([5, 3, 2, 4], (Kind::Uint8, Device::Cpu));
        let dataset = Dataset::new(images, None).unwrap();
        let batch = Batches::shuffled(&dataset, 2, Device::Cpu, 1, 0)
            .next()
            .unwrap()
            .unwrap()
            .items;
        assert_eq!(
            (batch.size(), batch.kind()),
            (vec![2, 3, 2, 4], Kind::Uint8)
        );
    }

    #[test]
    fn numbers_of_arrays_reach_the_batches_as_they_are() {
        let item = ItemSpec {
            has_missing: true,
            ..ItemSpec::new(ItemKind::Array, vec![1, 2])
        };
        let values = [0.1_f32, -7e8, f32::NAN, 300.5, 1e-8, 2.0];
        let items = Tensor::from_slice(&values).view([3, 1, 1, 2]);
        let dataset = Dataset::of_items(item, items, None).unwrap();
        for batch in Batches::shuffled(&dataset, 2, Device::Cpu, 1, 0) {
            let batch = batch.unwrap();
            assert_eq!(batch.items.kind(), Kind::Float);
            for (i, &row) in batch.rows.iter().enumerate() {
                let found = Vec::<f32>::try_from(batch.items.get(i as i64).view(-1)).unwrap();
                let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(&found), bits(&values[2 * row..2 * row + 2]));
            }
        }
    }

    #[test]
    #[should_panic(expected = "batch size 0")]
    fn a_batch_of_nothing_is_a_bug() {
        let _ = Batches::sequential(&numbered(1), 0, Device::Cpu);
    }
}
