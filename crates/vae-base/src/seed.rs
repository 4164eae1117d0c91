//! Seeds: one number for each random process of a run.

/// The seed of one random process: the one named `purpose`, in `epoch` of the run with the seed `seed`.
///
/// Checkpoints do not hold the state of libtorch's generators. A run can be resumed exactly only because every draw
/// follows from (seed, epoch, purpose). The value will never change. With `splitmix64(x)` as one step of SplitMix64
/// (Steele, Lea & Flood 2014) from state x, and `fnv1a` as the 64-bit FNV-1a hash of the UTF-8 bytes, it is
///
/// ```text
/// splitmix64(splitmix64(splitmix64(fnv1a(purpose)) ^ epoch) ^ seed)
/// ```
///
/// Each step is a bijection, so that for one purpose and seed no two epochs have the same number. libtorch's CPU
/// generators use its low 32 bits.
///
/// ```
/// let noise = vae_base::derive_seed(1, 0, "training noise");
/// assert_ne!(noise, vae_base::derive_seed(1, 1, "training noise"));
/// assert_ne!(noise, vae_base::derive_seed(1, 0, "order"));
/// ```
#[must_use]
pub fn derive_seed(seed: u64, epoch: u64, purpose: &str) -> u64 {
    let purpose = splitmix64(fnv1a(purpose.as_bytes()));
    let epoch = splitmix64(purpose ^ epoch);
    splitmix64(epoch ^ seed)
}

/// One fair coin flip for each image of an epoch: whether it is mirrored. `epoch_seed` is
/// [`derive_seed`]`(seed, epoch, "flip")`; the result is the highest bit of
/// `splitmix64(epoch_seed ^ splitmix64(image))`, which like the seeds will never change.
#[must_use]
pub fn flips(epoch_seed: u64, image: u64) -> bool {
    splitmix64(epoch_seed ^ splitmix64(image)) >> 63 == 1
}

/// A number below `n` (> 0) for each item of an epoch, each as likely as another to within n / 2^64. `epoch_seed` is
/// [`derive_seed`] of the run's seed, the epoch and a purpose; the result is the whole part of
/// n · `splitmix64(epoch_seed ^ splitmix64(item))` / 2^64, which like the seeds will never change.
#[must_use]
pub fn choice(epoch_seed: u64, item: u64, n: u64) -> u64 {
    let draw = splitmix64(epoch_seed ^ splitmix64(item));
    ((u128::from(draw) * u128::from(n)) >> 64) as u64
}

/// The first output of the SplitMix64 generator whose state is `state`.
fn splitmix64(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// 64-bit FNV-1a.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splitmix64_gives_the_published_outputs() {
        // First outputs of the authors' C program for the states 0 and 1234567.
        assert_eq!(splitmix64(0), 0xe220_a839_7b1d_cdaf);
        assert_eq!(splitmix64(1_234_567), 6_457_827_717_110_365_317);
    }

    #[test]
    fn fnv1a_gives_the_published_hashes() {
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn derived_seeds_never_change() {
        // From the Python program that computes the reference orders of training. Other values would break resuming every
        // earlier run.
        assert_eq!(derive_seed(0, 0, "order"), 0x9070_08a1_af18_93b3);
        assert_eq!(derive_seed(0, 1, "order"), 0x1c85_4929_7ed0_8104);
        assert_eq!(derive_seed(1, 0, "order"), 0xd56f_8991_fad6_c99e);
        assert_eq!(derive_seed(0, 0, "noise"), 0xb889_0582_407a_1e64);
        assert_eq!(derive_seed(u64::MAX, u64::MAX, ""), 0xc97e_8fe7_50e8_af47);
    }

    #[test]
    fn flips_never_change_and_are_fair() {
        // From tests/reference_order.py of the crate of data.
        let flipped = |seed, epoch| -> Vec<u64> {
            let epoch_seed = derive_seed(seed, epoch, "flip");
            (0..16).filter(|&image| flips(epoch_seed, image)).collect()
        };
        assert_eq!(flipped(0, 0), [0, 1, 2, 5, 8, 9, 12, 13, 14, 15]);
        assert_eq!(flipped(0, 1), [2, 3, 4, 8, 11, 12, 14]);
        assert_eq!(flipped(1, 0), [0, 2, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15]);
        let epoch_seed = derive_seed(7, 3, "flip");
        let n_flipped = (0..40_000).filter(|&i| flips(epoch_seed, i)).count();
        // Standard deviation 100.
        assert!(n_flipped.abs_diff(20_000) < 500, "{n_flipped}");
    }

    #[test]
    fn choices_are_even_and_agree_with_flips() {
        let epoch_seed = derive_seed(7, 3, "flip");
        for image in 0..100 {
            // The higher half of two is the highest bit.
            let flip = u64::from(flips(epoch_seed, image));
            assert_eq!(choice(epoch_seed, image, 2), flip);
        }
        let mut counts = [0_usize; 11];
        for item in 0..44_000 {
            counts[choice(epoch_seed, item, 11) as usize] += 1;
        }
        // Standard deviation 60.
        assert!(counts.iter().all(|n| n.abs_diff(4000) < 300), "{counts:?}");
    }

    #[test]
    fn seeds_of_neighbouring_runs_epochs_and_purposes_are_distinct() {
        let mut seeds = std::collections::HashSet::new();
        for seed in 0..100 {
            for epoch in 0..100 {
                for purpose in ["order", "noise", "samples"] {
                    assert!(seeds.insert(derive_seed(seed, epoch, purpose)));
                }
            }
        }
    }
}
